// libcudnn.so.9: an operation graph as a chain (convolution, sums, ReLU), its checks, and its interpreter, which sums
// in f32 and rounds once, at the end.
#include "cudnn.h"

namespace doubles {

Status read_tensor(const Descriptor *descriptor, Tensor &tensor) {
  const int type = one<int>(descriptor, CUDNN_ATTR_TENSOR_DATA_TYPE, -1);
  switch (type) {
  case CUDNN_DATA_FLOAT:
    tensor.type = Type::F32;
    break;
  case CUDNN_DATA_HALF:
    tensor.type = Type::F16;
    break;
  case CUDNN_DATA_BFLOAT16:
    tensor.type = Type::BF16;
    break;
  default:
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "data of type %d", type);
  }
  tensor.id = one<int64_t>(descriptor, CUDNN_ATTR_TENSOR_UNIQUE_ID);
  tensor.alignment = one<int64_t>(descriptor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
  tensor.is_virtual = one<char>(descriptor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, 0) != 0;
  const auto extents = list<int64_t>(descriptor, CUDNN_ATTR_TENSOR_DIMENSIONS);
  const auto strides = list<int64_t>(descriptor, CUDNN_ATTR_TENSOR_STRIDES);
  for (size_t i = 0; i < 4; i++) {
    tensor.extents[i] = extents[i];
    tensor.strides[i] = strides[i];
    if (extents[i] < 1 || strides[i] < 1)
      return fail(CUDNN_STATUS_BAD_PARAM, "extent %zu is %ld, its stride %ld", i, long(extents[i]), long(strides[i]));
  }
  if (tensor.alignment < 1 || (tensor.alignment & (tensor.alignment - 1)) != 0)
    return fail(CUDNN_STATUS_BAD_PARAM, "alignment to %ld bytes", long(tensor.alignment));
  return OK;
}

static Status read_convolution(const Descriptor *operation, Step &step) {
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X), step.input))
    return status;
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), step.second))
    return status;
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y), step.output))
    return status;
  const Descriptor *own = linked(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
  const auto strides = list<int64_t>(own, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
  const auto before = list<int64_t>(own, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
  const auto behind = list<int64_t>(own, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
  const auto dilations = list<int64_t>(own, CUDNN_ATTR_CONVOLUTION_DILATIONS);
  if (before != behind || dilations[0] != 1 || dilations[1] != 1)
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "a convolution that is dilated, or padded unequally");
  if (one<float>(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA) != 1 ||
      one<float>(operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA) != 0)
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "a convolution that scales");
  if (one<int>(own, CUDNN_ATTR_CONVOLUTION_CONV_MODE) != CUDNN_CROSS_CORRELATION)
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "a convolution that flips its filters");

  const auto &x = step.input.extents, &w = step.second.extents, &y = step.output.extents;
  if (w[0] != y[1] || x[1] % w[1] != 0 || y[1] % (x[1] / w[1]) != 0 || y[0] != x[0])
    return fail(CUDNN_STATUS_BAD_PARAM, "the channels or the batch of a convolution do not fit");
  step.kind = Step::CONVOLUTION;
  step.convolution = {x[0], x[1], x[2],       x[3],       y[1],      y[2],      y[3],
                      w[2], w[3], strides[0], strides[1], before[0], before[1], x[1] / w[1]};
  if ((x[2] + 2 * before[0] - w[2]) / strides[0] + 1 != y[2] || (x[3] + 2 * before[1] - w[3]) / strides[1] + 1 != y[3])
    return fail(CUDNN_STATUS_BAD_PARAM, "the output of a convolution is %ldx%ld", long(y[2]), long(y[3]));
  if (step.input.is_virtual || step.second.is_virtual || step.input.type != step.second.type)
    return fail(CUDNN_STATUS_BAD_PARAM, "the image and the filters of a convolution");
  return OK;
}

static Status read_pointwise(const Descriptor *operation, Step &step) {
  const int mode = one<int>(linked(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), CUDNN_ATTR_POINTWISE_MODE);
  const bool two = operation->attributes.count(CUDNN_ATTR_OPERATION_POINTWISE_BDESC) != 0;
  if (mode == CUDNN_POINTWISE_ADD && two)
    step.kind = Step::SUM;
  else if (mode == CUDNN_POINTWISE_RELU_FWD && !two)
    step.kind = Step::RELU;
  else
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "pointwise mode %d of %d tensors", mode, two ? 2 : 1);
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC), step.input))
    return status;
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC), step.output))
    return status;
  for (int i = 0; i < 4; i++) {
    if (step.input.extents[i] != step.output.extents[i])
      return fail(CUDNN_STATUS_BAD_PARAM, "the extents of a pointwise operation");
  }
  if (!two)
    return OK;
  if (Status status = read_tensor(linked(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC), step.second))
    return status;
  for (int i = 0; i < 4; i++) {
    if (step.second.extents[i] != 1 && step.second.extents[i] != step.input.extents[i])
      return fail(CUDNN_STATUS_BAD_PARAM, "the extents of what is added");
  }
  return OK;
}

static std::string shape_of(const Chain &chain) {
  const Step &first = chain.steps[0];
  const Convolution &own = first.convolution;
  std::string text;
  for (int64_t number :
       {own.batch, own.channels, own.height, own.width, own.filters, own.kernel_height, own.kernel_width, own.stride_y,
        own.groups, int64_t(chain.steps.size()), int64_t(first.input.type)})
    text += std::to_string(number) + " ";
  return text;
}

Status read_chain(const Descriptor *graph, Chain &chain) {
  const auto operations = list<void *>(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
  for (size_t i = 0; i < operations.size(); i++) {
    const Descriptor *operation = alive(operations[i]);
    const bool convolution = operation->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    if (!operation->finalized)
      return fail(CUDNN_STATUS_BAD_PARAM, "operation %zu of a graph is not finalized", i);
    if (convolution != (i == 0))
      return fail(CUDNN_STATUS_NOT_SUPPORTED, "a graph does not begin with its one convolution");
    if (!convolution && operation->kind != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)
      return fail(CUDNN_STATUS_NOT_SUPPORTED, "operation %d", operation->kind);
    Step step{};
    if (Status status = convolution ? read_convolution(operation, step) : read_pointwise(operation, step))
      return status;
    if (!convolution && (step.input.id != chain.steps.back().output.id || !step.input.is_virtual))
      return fail(CUDNN_STATUS_NOT_SUPPORTED, "a graph is not a chain");
    if (step.output.is_virtual == (i + 1 == operations.size()))
      return fail(CUDNN_STATUS_BAD_PARAM, "not the last output of a graph alone is stored");
    chain.steps.push_back(step);
  }
  if (forbidden(chain.steps.size() > 1 ? "fused" : "bare"))
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "forbidden by DOUBLE_FORBID");
  const Convolution &own = chain.steps[0].convolution;
  const int64_t taps = own.kernel_height * own.kernel_width * (own.channels / own.groups);
  chain.multiplications = double(own.batch * own.filters * own.out_height * own.out_width) * double(taps);
  chain.shape = shape_of(chain);
  return OK;
}

// ---- the interpreter ----

static size_t span(const Tensor &tensor) {
  int64_t values = 1;
  for (int i = 0; i < 4; i++)
    values += (tensor.extents[i] - 1) * tensor.strides[i];
  return size_t(values) * size_of(tensor.type);
}

// An input may share pixels of one pitch with the output, each its own channels of them; else they must lie apart.
static void check_apart(const char *what, const Tensor &input, uint64_t at, const Tensor &output, uint64_t to) {
  const uint64_t end = at + span(input), output_end = to + span(output);
  if (end <= to || output_end <= at)
    return;
  if (input.strides[3] == output.strides[3] && input.type == output.type) {
    const int64_t pitch = input.strides[3] * int64_t(size_of(input.type));
    const int64_t offset = (int64_t(at - to) % pitch + pitch) % pitch;
    const int64_t written = output.extents[1] * int64_t(size_of(output.type));
    const int64_t read = input.extents[1] * int64_t(size_of(input.type));
    if (offset >= written && offset + read <= pitch)
      return;
  }
  die("cudnn: %s [%#lx, %#lx) overlaps the output [%#lx, %#lx)", what, at, end, to, output_end);
}

// Visits the values of these extents in NHWC order, with their place in a tensor of extents that are equal or one.
template <class F> static void each(const int64_t (&extents)[4], const Tensor &tensor, F visit) {
  int64_t strides[4];
  for (int i = 0; i < 4; i++)
    strides[i] = tensor.extents[i] == 1 ? 0 : tensor.strides[i];
  size_t index = 0;
  for (int64_t n = 0; n < extents[0]; n++) {
    for (int64_t y = 0; y < extents[2]; y++) {
      for (int64_t x = 0; x < extents[3]; x++) {
        const int64_t pixel = n * strides[0] + y * strides[2] + x * strides[3];
        for (int64_t channel = 0; channel < extents[1]; channel++)
          visit(index++, pixel + channel * strides[1]);
      }
    }
  }
}

static std::vector<float> dense(const Tensor &tensor, uint64_t at) {
  const auto &extents = tensor.extents;
  std::vector<float> values(size_t(extents[0] * extents[1] * extents[2] * extents[3]));
  each(extents, tensor, [&](size_t index, int64_t place) { values[index] = load(tensor.type, at, place); });
  return values;
}

static std::vector<float> padded(const Convolution &own, const std::vector<float> &image) {
  if (own.padding_y == 0 && own.padding_x == 0)
    return image;
  const int64_t height = own.height + 2 * own.padding_y, width = own.width + 2 * own.padding_x;
  const size_t row = size_t(own.width * own.channels);
  std::vector<float> values(size_t(own.batch * height * width * own.channels));
  for (int64_t n = 0; n < own.batch; n++) {
    for (int64_t y = 0; y < own.height; y++) {
      const int64_t to = ((n * height + y + own.padding_y) * width + own.padding_x) * own.channels;
      memcpy(&values[size_t(to)], &image[size_t(n * own.height + y) * row], row * sizeof(float));
    }
  }
  return values;
}

static void check_addresses(const Chain &chain, const std::map<int64_t, uint64_t> &at) {
  const Tensor &output = chain.steps.back().output;
  const uint64_t to = at.at(output.id);
  for (const Step &step : chain.steps) {
    if (step.kind == Step::CONVOLUTION) {
      check_range("cudnn image", at.at(step.input.id), span(step.input));
      check_apart("image", step.input, at.at(step.input.id), output, to);
    }
    if (step.kind == Step::RELU)
      continue;
    const uint64_t second = at.at(step.second.id);
    check_range("cudnn second input", second, span(step.second));
    // a sum may be in place
    if (step.kind == Step::CONVOLUTION || second != to)
      check_apart("second input", step.second, second, output, to);
  }
  check_range("cudnn output", to, span(output));
}

void execute(const Chain &chain, const std::map<int64_t, uint64_t> &at, uint64_t workspace, int64_t workspace_bytes) {
  static const bool computes = option("DOUBLE_COMPUTE", 1) != 0;
  if (workspace_bytes > 0)
    check_range("cudnn workspace", workspace, size_t(workspace_bytes));
  check_addresses(chain, at);
  if (!computes)
    return;
  // as a real engine would: what else lives in it is lost
  memset((void *)workspace, 0xff, size_t(workspace_bytes));
  std::vector<float> values;
  for (const Step &step : chain.steps) {
    switch (step.kind) {
    case Step::CONVOLUTION: {
      const Convolution &own = step.convolution;
      values.resize(size_t(own.batch * own.out_height * own.out_width * own.filters));
      convolve(own, padded(own, dense(step.input, at.at(step.input.id))), dense(step.second, at.at(step.second.id)),
               values);
      break;
    }
    case Step::SUM: {
      const uint64_t second = at.at(step.second.id);
      each(step.output.extents, step.second,
           [&](size_t index, int64_t place) { values[index] += load(step.second.type, second, place); });
      break;
    }
    case Step::RELU:
      for (float &value : values)
        value = relu(value);
      break;
    }
  }
  const Tensor &output = chain.steps.back().output;
  const uint64_t to = at.at(output.id);
  each(output.extents, output, [&](size_t index, int64_t place) { store(output.type, to, place, values[index]); });
}

} // namespace doubles
