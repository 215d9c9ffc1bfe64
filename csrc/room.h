// Room for a few values, none of which costs anything until it is made.
#pragma once

#include <cstdint>
#include <new>
#include <type_traits>

namespace milkernels {

template <class V, int kMost>
class Room {
  static_assert(std::is_trivially_destructible_v<V>, "nothing here is destroyed");

 public:
  V& make(int64_t index, const V& value) { return *new (place(index)) V(value); }
  V& operator[](int64_t index) { return *std::launder(reinterpret_cast<V*>(place(index))); }

 private:
  unsigned char* place(int64_t index) { return room_ + index * static_cast<int64_t>(sizeof(V)); }

  alignas(V) unsigned char room_[kMost * sizeof(V)];
};

}  // namespace milkernels
