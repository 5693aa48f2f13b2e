// A program from a fuzzer's bytes; targets.py writes the same form.
#pragma once

#include "bytes.hpp"
#include "cpu/row.hpp"

namespace fuzz {

inline fastsched::Instruction read_instruction(Bytes& bytes, std::int64_t index) {
  fastsched::Instruction in{};
  in.code = static_cast<fastsched::Code>(bytes.take<std::int8_t>());
  in.next = static_cast<std::int32_t>(index + bytes.take<std::int8_t>());
  fastsched::Curve& c = in.curve;
  for (double* field : {&in.offset, &c.start, &c.end, &c.steps, &c.p, &c.q, &c.r, &c.s, &c.u, &c.v})
    *field = bytes.number();
  return in;
}

// Vectors are shrunk, so that the address sanitizer sees a read past their end.
inline fastsched::Source read_program(Bytes& bytes) {
  fastsched::Source source;
  const int samples = bytes.below(40);
  for (int i = 0; i < samples; ++i) source.samples.push_back(bytes.number());
  source.samples.shrink_to_fit();
  const int instructions = bytes.below(90);
  for (int i = 0; i < instructions; ++i) source.code.push_back(read_instruction(bytes, i));
  source.code.shrink_to_fit();
  return source;
}

// What stands before a program: two steps, and the shape of a table.
struct Asked {
  double at[2];  // the second one also begins the table
  std::int64_t steps, groups;
  bool by_column;
};

inline Asked read_asked(Bytes& bytes) {
  Asked asked{};
  for (double& step : asked.at) step = bytes.number();
  // Mostly few, so that many programs are tried; at times more than a block.
  const int length = bytes.take<std::uint8_t>();
  asked.steps = length >= 250 ? 520 + length : 1 + length % 20;
  asked.groups = 1 + bytes.below(9);
  asked.by_column = bytes.flip();
  return asked;
}

}  // namespace fuzz
