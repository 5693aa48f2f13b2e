// What happens before the update of all tensors: edits, norm, clipping, skipping, every tensor's numbers and
// counts, and the values of the next update. One block; what engine and device compute, they compute alike.
#pragma once

#include "cuda/norm.hpp"

namespace fastsched::cuda {

// ---- values of groups

// An lr that lies in a tensor is rounded once, to the tensor's format.
FASTSCHED_DEVICE void write_value(const ControlArgs& args, int group, int hyper, double value) {
  if (hyper == lr && args.lr_tensors != nullptr && args.lr_tensors[group].at != nullptr) {
    const LrTensor& tensor = args.lr_tensors[group];
    with_format(tensor.format,
                [&](auto kind) { narrow(value, *reinterpret_cast<decltype(kind)*>(tensor.at)); });
  } else {
    args.values[group * hypers + hyper] = value;
  }
}

FASTSCHED_DEVICE double read_value(const ControlArgs& args, int group, int hyper) {
  double value = args.values[group * hypers + hyper];
  if (hyper == lr && args.lr_tensors != nullptr && args.lr_tensors[group].at != nullptr) {
    const LrTensor& tensor = args.lr_tensors[group];
    with_format(tensor.format, [&](auto kind) {
      value = static_cast<double>(widened(*reinterpret_cast<const decltype(kind)*>(tensor.at)));
    });
  }
  return value;
}

// Of the programs of several rows, which of this row are a thread's; `before`: of how many programs the rows
// before it are. Threads of different warps come first: two programs in one warp would wait for each other.
FASTSCHED_DEVICE void evaluate(const DeviceRow& row, double step, int thread, int before = 0) {
  constexpr int lanes = 32, warps = control_threads / lanes;
  const int spread = thread % lanes * warps + thread / lanes;
  const int first = (spread + control_threads - before % control_threads) % control_threads;
  for (int p = first; p < row.program_count; p += control_threads)
    row.values[p] = value(row.programs[p], step);
}

// NaN where a group lacks the name.
FASTSCHED_DEVICE double scheduled_value(const DeviceRow& row, int group) {
  const double scale = row.scale[group];
  return row.column[group] < 0 ? scale : scale * row.values[row.column[group]];
}

// Rows may share programs and their scratch, which is filled once then.
FASTSCHED_DEVICE bool shares_scratch(const DeviceRow* rows, int h) {
  for (int earlier = 0; earlier < h; ++earlier) {
    if (rows[earlier].values == rows[h].values && rows[earlier].program_count == rows[h].program_count)
      return true;
  }
  return false;
}

// Every hyperparameter that is scheduled, for the update at `position`.
template <bool scheduled>
FASTSCHED_DEVICE void write_scheduled(const ControlArgs& args, std::int64_t position) {
  const DeviceRow* const rows = args.control->row;
  if constexpr (scheduled) {
    all_threads<control_threads>([&](int thread) {
      int before = 0;
      for (int h = 0; h < hypers; ++h) {
        if (shares_scratch(rows, h)) continue;
        evaluate(rows[h], static_cast<double>(position), thread, before);
        before += rows[h].program_count;
      }
    });
  }
  all_threads<control_threads>([&](int thread) {
    for (int i = thread; i < args.group_count * hypers; i += control_threads) {
      const int group = i / hypers, hyper = i % hypers;
      if (rows[hyper].column == nullptr) continue;
      const double next = scheduled_value(rows[hyper], group);
      if (next == next) write_value(args, group, hyper, next);
    }
  });
}

// ---- the phases of a step

// In order: the last edit of anything stands, since one thread makes them all.
FASTSCHED_DEVICE void apply_edits(const ControlArgs& args) {
  all_threads<control_threads>([&](int thread) {
    for (int i = 0; i < args.hyper_edit_count; ++i) {
      const HyperEdit& edit = args.hyper_edits[i];
      if ((edit.group * hypers + edit.hyper) % control_threads == thread)
        write_value(args, edit.group, edit.hyper, edit.value);
    }
    for (int i = 0; i < args.slot_edit_count; ++i) {
      const SlotEdit& edit = args.slot_edits[i];
      if (edit.slot % control_threads == thread) args.slots[edit.slot] = {edit.steps, edit.fresh};
    }
    if (thread == 0 && args.set_position >= 0) args.control->position = args.set_position;
  });
}

// What one thread decides for all.
struct Decision {
  double unscale, clip, ema_decay;
  bool made;  // else nothing changes
};

FASTSCHED_DEVICE bool is_finite(double x) { return x - x == 0; }

struct Norm {
  bool known;
  double size;
};

FASTSCHED_DEVICE bool joins_partials(const ControlArgs& args) {
  return args.partial_count > 0 && args.joined == nullptr && args.given_norm_at == nullptr;
}

// `sum`: the partials of this device, joined.
FASTSCHED_DEVICE Norm find_norm(const ControlArgs& args, double unscale, double sum) {
  Norm norm = {true, args.given_norm};
  if (args.given_norm_at != nullptr) {
    with_format(args.given_norm_format, [&](auto kind) {
      norm.size = static_cast<double>(widened(*static_cast<const decltype(kind)*>(args.given_norm_at)));
    });
  } else if (args.joined != nullptr) {
    norm.size = norm_of(args.settings.norm, args.joined[0]) * unscale;
  } else if (args.partial_count > 0) {
    norm.size = norm_of(args.settings.norm, sum) * unscale;
  } else {
    norm.known = args.given_norm == args.given_norm;
  }
  return norm;
}

// The CPU's step refuses a decay outside of 0..1; here nobody can be told in time, and the nearest one
// serves.
FASTSCHED_DEVICE double find_ema_decay(const Control& control) {
  const DeviceRow& row = control.row[ema_row];
  const double decay = row.column == nullptr ? 1 : scheduled_value(row, 0);
  return decay < 0 ? 0 : decay < 1 ? decay : 1;
}

FASTSCHED_DEVICE Decision decide(const ControlArgs& args, double sum) {
  Control& control = *args.control;
  Decision decision = {args.unscale, 1, find_ema_decay(control), false};
  bool spoilt = args.skip || (args.found_inf != nullptr && *args.found_inf != 0);
  if (args.grad_scale != nullptr) {
    const double scale = static_cast<double>(*args.grad_scale);
    decision.unscale = 1 / scale;
    spoilt |= !(scale > 0 && is_finite(scale));
  }
  control.skip = 1;
  if (args.joined != nullptr && args.joined[1] == 0) return decision;  // no rank has gradients
  const Norm norm = find_norm(args, decision.unscale, sum);
  if (norm.known) {
    control.grad_norm = norm.size;
    spoilt |= !is_finite(norm.size);
    if (args.settings.max_grad_norm > 0) decision.clip = clip_factor(args.settings.max_grad_norm, norm.size);
  }
  decision.made = !spoilt;
  control.skip = spoilt ? 1 : 0;
  control.skipped += spoilt ? 1 : 0;
  control.ema_decay = decision.ema_decay;
  return decision;
}

// ---- one tensor

// A number that somebody has written into the tensor counts.
FASTSCHED_DEVICE std::int64_t steps_of(const Slot& slot, const float* shown) {
  if (slot.steps >= 0 && static_cast<float>(slot.steps) == *shown) return slot.steps;
  const bool possible = *shown >= 0 && *shown < 9.2e18f;
  return possible ? static_cast<std::int64_t>(*shown) : 0;
}

// Adam's corrections of the tensor before: most share them.
struct Corrected {
  std::int64_t steps;
  double beta1, beta2;
  BiasCorrection bias;
};

FASTSCHED_DEVICE void correct(Numbers& n, std::int64_t steps, Corrected& before) {
  if (before.steps != steps || before.beta1 != n.beta1 || before.beta2 != n.beta2)
    before = {steps, n.beta1, n.beta2, bias_corrections(n, static_cast<double>(steps + 1))};
  correct(n, before.bias);
}

FASTSCHED_DEVICE Numbers numbers_for(const ControlArgs& args, const DeviceTensor& tensor,
                                     const Decision& decision, const double* values) {
  const Scaling scaling = {decision.unscale, decision.clip, false};
  const double decay = args.phase == Phase::probe ? 1 : decision.ema_decay;
  if (!tensor.averaged_only)
    return numbers_of(args.settings, values, args.constants[tensor.group], scaling, decay);
  Numbers n = {};
  n.ema = decay;
  return n;
}

// Its numbers for the update, and its counts after it.
FASTSCHED_DEVICE void prepare(const ControlArgs& args, const Decision& decision, int index,
                              Corrected& before) {
  const DeviceTensor& tensor = args.tensors[index];
  Prepared& prepared = args.prepared[index];
  Slot& slot = args.slots[tensor.slot];
  prepared.fresh = slot.fresh;
  std::uint32_t fresh = slot.fresh & fresh_momentum;
  double values[hypers] = {};
  if (!tensor.averaged_only) {
    for (int h = 0; h < hypers; ++h) values[h] = read_value(args, tensor.group, h);
  }
  Numbers n = numbers_for(args, tensor, decision, values);
  if (!tensor.averaged_only) {
    const std::int64_t steps = steps_of(slot, tensor.step);
    if (args.settings.rule == Rule::adam) correct(n, steps, before);
    n.first_momentum = (slot.fresh & fresh_momentum) != 0;
    prepared.bits = streams_of(args.settings.seed, steps, tensor.place);
    if (args.phase != Phase::probe) {
      if (values[momentum] != 0) fresh = 0;
      slot.steps = steps + 1;
      *tensor.step = static_cast<float>(slot.steps);
    }
  }
  prepared.numbers = n;
  slot.fresh = fresh;
}

// The fence: the host, which may read at any time, sees no number before what it counts.
FASTSCHED_DEVICE void report(const ControlArgs& args) {
  last_of_all_threads<control_threads>([&](int thread) {
    if (thread != 0) return;
    Control& control = *args.control;
    ++control.sequence;
    if (args.report == nullptr) return;
    volatile Report& report = *args.report;
    report.position = control.position;
    report.skipped = control.skipped;
    report.grad_norm = control.grad_norm;
    fence();
    report.sequence = control.sequence;
  });
}

// Whether the schedule goes on.
template <bool scheduled>
FASTSCHED_DEVICE bool prepare_all(const ControlArgs& args) {
  FASTSCHED_BLOCK_MEMORY double of_thread[control_threads];
  FASTSCHED_BLOCK_MEMORY Decision decision;
  const Control& control = *args.control;
  if (joins_partials(args)) join_partials(args.settings.norm, args.partials, args.partial_count, of_thread);
  if constexpr (scheduled) {
    all_threads<control_threads>(
        [&](int thread) { evaluate(control.row[ema_row], static_cast<double>(control.position), thread); });
  }
  all_threads<control_threads>([&](int thread) {
    if (thread == 0) decision = decide(args, joins_partials(args) ? of_thread[0] : 0);
  });
  if (!decision.made) return false;
  all_threads<control_threads>([&](int thread) {
    Corrected before = {-1, 0, 0, {}};
    for (int i = thread; i < args.tensor_count; i += control_threads) prepare(args, decision, i, before);
  });
  return args.phase == Phase::whole;
}

// scheduled: some hyperparameter, or the decay of the average, follows a curve. Without, none is compiled.
template <bool scheduled>
FASTSCHED_KERNEL(control_threads, 1)
control(const ControlArgs args) {
  apply_edits(args);
  const bool advances =
      args.phase == Phase::advance || (args.phase != Phase::edits && prepare_all<scheduled>(args));
  if (advances) {
    write_scheduled<scheduled>(args, args.control->position + 1);
    all_threads<control_threads>([&](int thread) {
      if (thread == 0 && args.control->position < largest_position) ++args.control->position;
    });
  }
  report(args);
}

}  // namespace fastsched::cuda
