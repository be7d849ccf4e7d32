// Memory that a thread reuses between calls, because fresh pages would take as much time as the computation.
#pragma once

#include <cstdint>
#include <vector>

namespace ddim {

inline float* scratch(std::vector<float>& memory, int64_t size) {
    if ((int64_t)memory.size() < size) memory.resize(size);
    return memory.data();
}

}  // namespace ddim
