// ReLU of the maximum of 2x2 windows, with its backward pass. ATen's max_pool2d forward takes 40 %
// of a LeNet training step on the CPU, since its inner loop is scalar; these loops are vectorised.
// Values and gradients equal max_pool2d(relu(x)): the first largest element of a window gets the
// gradient, unless it is not positive; NaN goes through.

#include <cstdint>
#include <cstring>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

inline float larger(float best, float next) { return (next > best) | (next != next) ? next : best; }

// Whole planes. `tall` has room for height / 2 * width floats: each pair of rows becomes one row
// first, so that every loop reads and writes memory in order.
FOR_EACH_PROCESSOR
void halve_planes(const float *__restrict x, float *__restrict out, float *__restrict tall,
                  int64_t planes, int64_t height, int64_t width) {
  const int64_t rows = height / 2, columns = width / 2, even = 2 * columns;
  for (int64_t plane = 0; plane < planes; ++plane, x += height * width, out += rows * columns) {
    for (int64_t row = 0; row < rows; ++row) {
      const float *__restrict top = x + 2 * row * width, *__restrict bottom = top + width;
      float *__restrict to = tall + row * even;
      for (int64_t at = 0; at < even; ++at) to[at] = larger(top[at], bottom[at]);
    }
    for (int64_t at = 0; at < rows * columns; ++at) {
      const float best = larger(tall[2 * at], tall[2 * at + 1]);
      out[at] = best < 0.0f ? 0.0f : best;
    }
  }
}

// One row of windows: two input rows of 2 * windows floats, one output row.
FOR_EACH_PROCESSOR
void spread_row(const float *__restrict top, const float *__restrict bottom,
                const float *__restrict out, const float *__restrict gradient,
                float *__restrict to_top, float *__restrict to_bottom, int64_t windows) {
  for (int64_t at = 0; at < windows; ++at) {
    const float value = out[at];
    const float mine = value > 0.0f ? gradient[at] : 0.0f;
    const bool first = top[2 * at] == value;
    const bool second = !first & (top[2 * at + 1] == value);
    const bool third = !first & !second & (bottom[2 * at] == value);
    const bool fourth = !first & !second & !third;
    to_top[2 * at] = first ? mine : 0.0f;
    to_top[2 * at + 1] = second ? mine : 0.0f;
    to_bottom[2 * at] = third ? mine : 0.0f;
    to_bottom[2 * at + 1] = fourth ? mine : 0.0f;
  }
}

struct Sides {
  int64_t planes, height, width;
  explicit Sides(const at::Tensor &x) : planes(x.size(0) * x.size(1)), height(x.size(2)), width(x.size(3)) {}
  int64_t rows() const { return height / 2; }
  int64_t columns() const { return width / 2; }
  bool odd() const { return (height | width) & 1; }
};

struct ReluHalve : torch::autograd::Function<ReluHalve> {
  static at::Tensor forward(torch::autograd::AutogradContext *context, const at::Tensor &input) {
    TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.is_cpu(),
                "expected [n, c, h, w] of Float on the CPU");
    const auto x = input.contiguous();
    const Sides sides(x);
    auto out = at::empty({x.size(0), x.size(1), sides.rows(), sides.columns()}, x.options());
    auto tall = at::empty({sides.rows() * sides.width}, x.options());
    halve_planes(x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), tall.mutable_data_ptr<float>(),
                 sides.planes, sides.height, sides.width);
    context->save_for_backward({x, out});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0];
    const Sides sides(x);
    const auto gradient = gradients[0].contiguous();
    auto result = sides.odd() ? at::zeros(x.sizes(), x.options()) : at::empty(x.sizes(), x.options());
    const float *from = x.const_data_ptr<float>();
    const float *out = saved[1].const_data_ptr<float>();
    const float *down = gradient.const_data_ptr<float>();
    float *to = result.mutable_data_ptr<float>();
    const int64_t area = sides.height * sides.width, columns = sides.columns();
    for (int64_t plane = 0; plane < sides.planes; ++plane, from += area, to += area)
      for (int64_t row = 0; row < sides.rows(); ++row, out += columns, down += columns) {
        const int64_t at = 2 * row * sides.width;
        spread_row(from + at, from + at + sides.width, out, down, to + at, to + at + sides.width, columns);
      }
    return {result};
  }
};

}  // namespace

at::Tensor stillhouse_relu_halved(const at::Tensor &x) { return ReluHalve::apply(x); }
