#include "kept_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace milkernels {
namespace {

constexpr size_t kDefaultLimitMiB = 512;
constexpr const char* kLimitName = "MILKERNELS_KEPT_MIB";

constexpr size_t kHugePage = size_t{2} << 20;

std::atomic<size_t> taken{0};

// Asks for huge pages where the system gives them on request: a fault for each 4 KiB takes longer
// than writing them. Does nothing elsewhere, and no harm if it is refused.
void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(memory, bytes, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

Block allocate(size_t bytes) {
  const size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = ::operator new(whole, std::align_val_t{kHugePage}, std::nothrow);
  if (data == nullptr) return {};
  prefer_huge_pages(data, whole);
  return {data, whole};
}

void release(Block block) { ::operator delete(block.data, std::align_val_t{kHugePage}); }

class Keeper {
 public:
  // The smallest block that fits and is not mostly unused. No data where there is none, or another
  // thread (or the one that was at it when this process was forked) is at it.
  Block take(size_t bytes) {
    if (!enter()) return {};
    Block* best = nullptr;
    for (Block* block = kept_.data(); block != kept_.data() + count_; ++block) {
      const bool fits = block->bytes >= bytes && block->bytes <= 2 * std::max(bytes, kHugePage);
      if (fits && (best == nullptr || block->bytes < best->bytes)) best = block;
    }
    const Block result = best == nullptr ? Block{} : remove(best);
    leave();
    return result;
  }

  // The longest unused go where there is no room.
  void give(Block block, size_t limit) {
    if (block.bytes > limit || !enter()) return release(block);
    while (count_ == kept_.size() || bytes_ + block.bytes > limit) release(remove(kept_.data()));
    kept_[count_++] = block;
    bytes_ += block.bytes;
    leave();
  }

  size_t release_all() {
    if (!enter()) return 0;
    const size_t bytes = bytes_;
    while (count_ > 0) release(remove(kept_.data()));
    leave();
    return bytes;
  }

 private:
  bool enter() { return !entered_.test_and_set(std::memory_order_acquire); }
  void leave() { entered_.clear(std::memory_order_release); }

  Block remove(Block* block) {
    const Block result = *block;
    std::copy(block + 1, kept_.data() + count_, block);
    --count_;
    bytes_ -= result.bytes;
    return result;
  }

  std::atomic_flag entered_ = ATOMIC_FLAG_INIT;
  std::array<Block, 16> kept_{};  // the longest unused first
  size_t count_ = 0;
  size_t bytes_ = 0;
};

// Tensors may be dropped after a process's statics.
static_assert(std::is_trivially_destructible_v<Keeper>);
Keeper keeper;

}  // namespace

Block take_block(size_t bytes) {
  Block block = keeper.take(bytes);
  if (block.data == nullptr) block = allocate(bytes);
  if (block.data == nullptr && release_kept_memory() > 0) block = allocate(bytes);
  taken += block.bytes;
  return block;
}

void give_block(Block block) {
  taken -= block.bytes;
  keeper.give(block, kept_memory_limit());
}

size_t release_kept_memory() { return keeper.release_all(); }

size_t taken_bytes() { return taken; }

size_t kept_memory_limit() {
  static const size_t limit = [] {
    const char* asked = std::getenv(kLimitName);
    if (asked == nullptr || *asked == '\0') return kDefaultLimitMiB << 20;
    const std::string text = asked;
    const bool number =
        text.size() <= 9 &&
        std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (!number)
      throw std::invalid_argument(std::string(kLimitName) +
                                  ": expected how many MiB to keep, got " + text);
    return static_cast<size_t>(std::stoull(text)) << 20;
  }();
  return limit;
}

}  // namespace milkernels
