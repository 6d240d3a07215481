// libcudnn.so.9: invented engines, one for each thing that an engine may do to its caller; what the heuristics say of
// them, and the run of a plan. In real mode engines and heuristics are the real library's.
#include "cudnn.h"

namespace doubles {
namespace {

enum Engine : int64_t {
  PLAIN,             // runs
  WITH_KNOBS,        // runs, with knobs
  TAKES_NOTHING,     // is refused when it is made
  WITHOUT_TENSORS,   // runs without tensor cores: the heuristics' fallback
  NOT_DETERMINISTIC, // must not be chosen
  BIG,               // wants 300 MiB
  FAILS,             // fails when it runs
  WINOGRAD,          // must not be chosen
  NOT_CAPTURED,      // fails while it is captured, and spoils the capture
  ENGINES,
};

struct Choice {
  int64_t engine;
  std::vector<std::pair<int, int64_t>> knobs; // type, value
};

std::vector<int> notes_of(int64_t engine) {
  switch (engine) {
  case NOT_DETERMINISTIC:
    return {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC};
  case WINOGRAD:
    return {CUDNN_NUMERICAL_NOTE_WINOGRAD, CUDNN_NUMERICAL_NOTE_TENSOR_CORE};
  case PLAIN:
  case WITH_KNOBS:
  case BIG:
  case NOT_CAPTURED:
    return {CUDNN_NUMERICAL_NOTE_TENSOR_CORE};
  default:
    return {};
  }
}

int64_t workspace_of(int64_t engine, const Chain &chain) {
  if (engine == BIG)
    return int64_t(300) << 20;
  if (engine == WITH_KNOBS)
    return (1 << 20) + 256;
  return int64_t(hash(chain.shape) % 4096) * 16;
}

std::vector<Choice> choices(int mode) {
  static const bool quick = option("DOUBLE_QUICK", 0) != 0;
  if (mode != CUDNN_HEUR_MODE_A)
    return {{WITHOUT_TENSORS, {{14, -1}}}};
  std::vector<Choice> all = {{WITH_KNOBS, {{2, 0}, {13, 1}}},
                             {WITH_KNOBS, {{2, 3}, {13, 0}}},
                             {PLAIN, {}},
                             {BIG, {}},
                             {FAILS, {}},
                             {NOT_CAPTURED, {}},
                             {NOT_DETERMINISTIC, {}},
                             {WINOGRAD, {}}};
  if (quick)
    all.resize(1);
  return all;
}

std::unique_ptr<Descriptor> child(int kind) {
  auto made = std::make_unique<Descriptor>();
  made->kind = kind;
  made->finalized = true;
  return made;
}

// Fills the caller's engine configurations; without room for any, says how many there are.
Status read_choices(const Descriptor *heuristics, int64_t most, int64_t *found, void *into) {
  const auto all = choices(one<int>(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE));
  *found = int64_t(all.size());
  if (most == 0)
    return OK;
  *found = std::min(most, *found);
  for (int64_t i = 0; i < *found; i++) {
    Descriptor *configuration = alive(((void **)into)[i]);
    if (configuration->kind != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
      return fail(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "results of heuristics are engine configurations");
    const Choice &choice = all[size_t(i)];
    configuration->finalized = true;
    auto engine = child(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    give<int64_t>(engine.get(), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, choice.engine);
    configuration->children.push_back(std::move(engine));
    for (auto [type, value] : choice.knobs) {
      auto knob = child(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
      give<int>(knob.get(), CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, type);
      give<int64_t>(knob.get(), CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, value);
      configuration->children.push_back(std::move(knob));
    }
  }
  return OK;
}

// Copies the engine or the knob choices of a configuration that the heuristics gave to the caller's descriptors.
Status read_children(const Descriptor *configuration, int kind, int64_t most, int64_t *found, void *into) {
  int64_t count = 0;
  for (auto &child : configuration->children) {
    if (child->kind != kind)
      continue;
    if (count < most) {
      Descriptor *to = alive(((void **)into)[count]);
      if (to->kind != kind)
        return fail(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "descriptor %d is not of kind %d", to->kind, kind);
      to->attributes = child->attributes;
      to->finalized = true;
    }
    count++;
  }
  *found = most ? std::min(count, most) : count;
  return OK;
}

Status read_notes(const Descriptor *engine, int type, int64_t most, int64_t *found, void *into) {
  const auto notes = notes_of(one<int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
  *found = int64_t(notes.size());
  if (type != CUDNN_TYPE_NUMERICAL_NOTE || most < *found)
    return fail(CUDNN_STATUS_BAD_PARAM, "numerical notes as %ld values of type %d", long(most), type);
  memcpy(into, notes.data(), notes.size() * sizeof(int));
  return OK;
}

Descriptor *configuration_of(const Descriptor *plan) {
  return linked(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
}

Descriptor *engine_of(const Descriptor *plan) {
  return linked(configuration_of(plan), CUDNN_ATTR_ENGINECFG_ENGINE);
}

Status read_chain_of(const Descriptor *plan, Chain &chain) {
  return read_chain(linked(engine_of(plan), CUDNN_ATTR_ENGINE_OPERATION_GRAPH), chain);
}

// The addresses of a variant pack by identifier: one for each tensor that is stored, aligned as its descriptor says.
Status read_addresses(const Descriptor *pack, const Chain &chain, std::map<int64_t, uint64_t> &at) {
  const auto identifiers = list<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = list<uint64_t>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  for (size_t i = 0; i < identifiers.size(); i++) {
    if (!at.emplace(identifiers[i], pointers[i]).second)
      return fail(CUDNN_STATUS_BAD_PARAM, "tensor %ld has two pointers", long(identifiers[i]));
  }
  size_t stored = 0;
  for (const Step &step : chain.steps) {
    std::vector<const Tensor *> tensors = {&step.input, &step.output};
    if (step.kind != Step::RELU)
      tensors.push_back(&step.second);
    for (const Tensor *tensor : tensors) {
      if (tensor->is_virtual)
        continue;
      auto found = at.find(tensor->id);
      if (found == at.end())
        return fail(CUDNN_STATUS_BAD_PARAM, "no pointer for tensor %ld", long(tensor->id));
      if (found->second % uint64_t(tensor->alignment) != 0)
        return fail(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "pointer %#lx of tensor %ld is not aligned to %ld",
                    found->second, long(tensor->id), long(tensor->alignment));
      stored++;
    }
  }
  if (stored != at.size())
    return fail(CUDNN_STATUS_BAD_PARAM, "%zu pointers for %zu tensors", at.size(), stored);
  return OK;
}

Status read_workspace(const Descriptor *plan, int64_t &bytes) {
  if (!real::used()) {
    bytes = one<int64_t>(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    return OK;
  }
  int64_t found;
  return real::get(plan->real, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &found, &bytes);
}

} // namespace

Status finalize_heuristics(const Descriptor *heuristics) {
  if (!real::used() && one<int>(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_B)
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "heuristics have no mode B here");
  return OK;
}

Status finalize_engine(const Descriptor *engine) {
  const auto number = one<int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
  if (real::used())
    return OK;
  if (number < 0 || number >= ENGINES)
    return fail(CUDNN_STATUS_BAD_PARAM, "there is no engine %ld", long(number));
  if (number == TAKES_NOTHING)
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "engine %ld takes nothing", long(number));
  return OK;
}

Status finalize_plan(Descriptor *plan) {
  Chain chain;
  if (Status status = read_chain_of(plan, chain))
    return status;
  const auto engine = one<int64_t>(engine_of(plan), CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
  if (!real::used())
    give<int64_t>(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, workspace_of(engine, chain));
  return OK;
}

bool read_from_engines(Descriptor *descriptor, int name, int type, int64_t most, int64_t *found, void *into,
                       Status &status) {
  switch (name) {
  case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:
    *(int64_t *)into = ENGINES;
    *found = 1;
    status = OK;
    return true;
  case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    status = read_notes(descriptor, type, most, found, into);
    return true;
  case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    status = read_choices(descriptor, most, found, into);
    return true;
  case CUDNN_ATTR_ENGINECFG_ENGINE:
    status = read_children(descriptor, CUDNN_BACKEND_ENGINE_DESCRIPTOR, most, found, into);
    return true;
  case CUDNN_ATTR_ENGINECFG_KNOB_CHOICES:
    status = read_children(descriptor, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, most, found, into);
    return true;
  default:
    return false;
  }
}

} // namespace doubles
using namespace doubles;

API cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_descriptor,
                                      cudnnBackendDescriptor_t pack_descriptor) {
  if (int error = state("cudnnBackendExecute"))
    return fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER, "driver error %d", error);
  void *stream = alive_handle(handle)->stream;
  check_stream("cudnnBackendExecute", stream);
  const Descriptor *plan = alive(plan_descriptor), *pack = alive(pack_descriptor);
  if (!plan->finalized || !pack->finalized)
    return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "the plan or the pack is not finalized");
  if (one<void *>(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) != (void *)handle)
    die("cudnn: a plan of another handle");

  Chain chain;
  std::map<int64_t, uint64_t> at;
  int64_t bytes = 0;
  if (Status status = read_chain_of(plan, chain))
    return status;
  if (Status status = read_addresses(pack, chain, at))
    return status;
  if (Status status = read_workspace(plan, bytes))
    return status;
  const auto workspace = one<uint64_t>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  if (bytes != 0 && (workspace == 0 || workspace % 16 != 0))
    return fail(CUDNN_STATUS_BAD_PARAM, "a workspace at %#lx", workspace);

  const auto engine = one<int64_t>(engine_of(plan), CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
  if (!real::used() && engine == FAILS)
    return fail(CUDNN_STATUS_EXECUTION_FAILED, "engine %ld never runs", long(engine));
  if (!real::used() && engine == NOT_CAPTURED && capturing(stream)) {
    invalidate_captures();
    return fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER, "engine %ld cannot be captured", long(engine));
  }

  std::string key = "cudnn " + std::to_string(uint64_t(plan)), algorithm = chain.shape + std::to_string(engine);
  for (auto [identifier, address] : at)
    key += " " + std::to_string(address);
  for (void *knob : list<void *>(configuration_of(plan), CUDNN_ATTR_ENGINECFG_KNOB_CHOICES))
    algorithm += " " + std::to_string(one<int64_t>(alive(knob), CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE));
  auto run = [=, lives = plan->lives] {
    if (!*lives)
      die("cudnn: a plan that was queued or captured is gone: %s", chain.shape.c_str());
    execute(chain, at, workspace, bytes);
  };
  const double nanoseconds = simulated_nanoseconds(chain.multiplications, algorithm);
  if (int error = enqueue(stream, {"cudnnBackendExecute", key, nanoseconds, run}))
    return fail(CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER, "driver error %d", error);
  return OK;
}
