// Temporary memory of a task.

#pragma once

#include <cstdint>
#include <cstdlib>

#include "vectors.h"

namespace {

// Memory of one task, handed out in pieces of whole cache lines.
class Scratch {
    char *start, *next;

   public:
    explicit Scratch(size_t bytes) : start(static_cast<char*>(std::aligned_alloc(64, round_up(bytes, 64)))) {
        if (!start) std::abort();  // out of memory
        next = start;
    }
    ~Scratch() { std::free(start); }
    Scratch(const Scratch&) = delete;
    template <class Value>
    Value* take(int64_t count) {
        Value* piece = reinterpret_cast<Value*>(next);
        next += round_up(count * sizeof(Value), 64);
        return piece;
    }
};

}  // namespace
