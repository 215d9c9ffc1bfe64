// Memory of large results. Where they are dropped it is kept for those of later calls: the system
// gives new memory page by page and zeroed, which takes longer than most kernels.
#pragma once

#include <cstddef>

namespace milkernels {

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

// At least so many bytes with anything in them; no data where there is no memory.
Block take_block(size_t bytes);

// Ends a block's use.
void give_block(Block block);

// Gives the system what is kept. Returns its bytes.
size_t release_kept_memory();

// Bytes of the blocks in use.
size_t taken_bytes();

// How many bytes may be kept. Throws std::invalid_argument for a setting that is no number.
size_t kept_memory_limit();

}  // namespace milkernels
