// What tch 0.24 leaves out of libtorch: inference mode, freezing, buffers of a TorchScript module,
// gradients that are views, tracing to bytes. No exception crosses the border: a function that can
// fail returns a message (to be freed with stillhouse_free_text) or null.

#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_sgd.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/passes/fixup_trace_scope_blocks.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/normalize_ops.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

using torch::jit::Module;

at::Tensor stillhouse_relu_halved(const at::Tensor &x);  // pool.cpp

namespace {

// Runs `body`; returns null, or the first line of what it threw (the rest is a C++ stack).
template <typename Body>
char *guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &e) {
    std::string text = e.what_without_backtrace();
    return strdup(text.c_str());
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

bool has_random(const torch::jit::Block *block) {
  for (const auto *node : block->nodes()) {
    if (node->isNondeterministic()) return true;
    for (const auto *inner : node->blocks())
      if (has_random(inner)) return true;
  }
  return false;
}

}  // namespace

extern "C" {

void stillhouse_free_text(char *text) { free(text); }

void *stillhouse_inference_enter() { return new c10::InferenceMode(true); }
void stillhouse_inference_leave(void *guard) {
  delete static_cast<c10::InferenceMode *>(guard);
}

int stillhouse_flush_denormal(int on) {
  return at::globalContext().setFlushDenormal(on != 0);
}

char *stillhouse_set_gradient(const at::Tensor *parameter, const at::Tensor *gradient) {
  return guarded([&] { parameter->mutable_grad() = *gradient; });
}

char *stillhouse_relu_halve(const at::Tensor *x, at::Tensor **out) {
  return guarded([&] { *out = new at::Tensor(stillhouse_relu_halved(*x)); });
}

// How a card computes. Precise: the same bits every time, no search among kernels, none that adds in
// the order of arrival (what has no other kernel fails), no matrix units that round operands. Else
// whatever is fastest, with operands of ten bits.
char *stillhouse_cuda_precise(int precise) {
  return guarded([&] {
    auto &context = at::globalContext();
    context.setBenchmarkCuDNN(precise == 0);
    context.setDeterministicCuDNN(precise != 0);
    context.setDeterministicAlgorithms(precise != 0, false);
    context.setDeterministicFillUninitializedMemory(false);
    context.setAllowTF32CuBLAS(precise == 0);
    context.setAllowTF32CuDNN(precise == 0);
  });
}

// The instructions that libtorch's own kernels use on this processor, such as AVX512.
char *stillhouse_cpu_capability() { return strdup(at::get_cpu_capability().c_str()); }

// PyTorch's fused SGD: one pass over weights, gradients and velocities.
char *stillhouse_sgd(const at::Tensor *weights, const at::Tensor *gradients,
                     const at::Tensor *velocities, double rate, double momentum, double decay) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> buffers;
    if (momentum != 0) buffers.push_back(*velocities);
    at::_fused_sgd_({*weights}, {*gradients}, buffers, decay, momentum, rate, 0.0, false, false,
                    false);
  });
}

// PyTorch's fused Adam; `step` holds the number of this step, from 1, as one float.
char *stillhouse_adam(const at::Tensor *weights, const at::Tensor *gradients,
                      const at::Tensor *means, const at::Tensor *squares, const at::Tensor *step,
                      double rate, double decay) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_fused_adam_({*weights}, {*gradients}, {*means}, {*squares}, {}, {*step}, rate, 0.9, 0.999,
                     decay, 1e-8, false, false);
  });
}

void stillhouse_module_free(Module *module) { delete module; }

// device: -1 is the CPU, others are CUDA indices.
char *stillhouse_module_load(const char *data, size_t size, int device, Module **out) {
  return guarded([&] {
    std::istringstream stream(std::string(data, size));
    auto where = device < 0 ? at::Device(at::kCPU)
                            : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
    *out = new Module(torch::jit::load(stream, where));
  });
}

// optimize: whether the graph executor may rewrite the graph. Off, every run computes exactly what
// eager PyTorch computes, so that the first runs (which profile) equal the later ones.
char *stillhouse_module_forward(Module *module, const at::Tensor *input, int optimize,
                                at::Tensor **out) {
  return guarded([&] {
    torch::jit::GraphOptimizerEnabledGuard executor(optimize != 0);
    auto output = module->forward({*input});
    if (!output.isTensor()) throw std::invalid_argument("forward does not return one tensor");
    *out = new at::Tensor(output.toTensor());
  });
}

char *stillhouse_module_train(Module *module, int on) {
  return guarded([&] { module->train(on != 0); });
}

// Calls `visit(context, name, tensor)` for each parameter (or buffer); the tensor is the callee's.
char *stillhouse_module_tensors(const Module *module, int buffers, void *context,
                                void (*visit)(void *, const char *, at::Tensor *)) {
  return guarded([&] {
    auto each = [&](const auto &list) {
      for (const auto &item : list) visit(context, item.name.c_str(), new at::Tensor(item.value));
    };
    if (buffers != 0)
      each(module->named_buffers());
    else
      each(module->named_parameters());
  });
}

// Whether `forward` draws from libtorch's global generator (dropout, for example).
char *stillhouse_module_random(const Module *module, int *out) {
  return guarded([&] {
    auto graph = module->get_method("forward").graph()->copy();
    torch::jit::Inline(*graph);
    *out = has_random(graph->block()) ? 1 : 0;
  });
}

char *stillhouse_module_optimized(const Module *module, Module **out) {
  return guarded([&] {
    auto copy = module->clone();
    copy.eval();
    auto frozen = torch::jit::freeze(copy);
    *out = new Module(torch::jit::optimize_for_inference(frozen));
  });
}

char *stillhouse_module_save(const Module *module, void *context,
                             void (*write)(void *, const char *, size_t)) {
  return guarded([&] {
    std::ostringstream stream;
    module->save(stream);
    auto bytes = stream.str();
    write(context, bytes.data(), bytes.size());
  });
}

char *stillhouse_trace_begin(const at::Tensor *input, Module **out) {
  return guarded([&] {
    if (torch::jit::tracer::isTracing()) throw std::invalid_argument("tracing does not nest");
    auto module = std::make_unique<Module>("Student");
    auto state = std::make_shared<torch::jit::tracer::TracingState>();
    torch::jit::tracer::setTracingState(state);
    state->graph->insertInput(0, "self")->setType(module->_ivalue()->type());
    auto *value = state->graph->addInput();
    value->setType(torch::jit::TensorType::get());
    state->setValue(*input, value);
    *out = module.release();
  });
}

char *stillhouse_trace_end(Module *module, const at::Tensor *output) {
  return guarded([&] {
    auto state = torch::jit::tracer::getTracingState();
    if (state == nullptr) throw std::invalid_argument("no trace has begun on this thread");
    state->graph->registerOutput(state->getOutput(*output, 0));
    torch::jit::FixupTraceScopeBlocks(state->graph, module);
    torch::jit::NormalizeOps(state->graph);
    torch::jit::tracer::setTracingState(nullptr);
    auto method =
        module->_ivalue()->compilation_unit()->create_function("forward", state->graph);
    module->type()->addMethod(method);
  });
}

void stillhouse_trace_abandon() { torch::jit::tracer::abandon(); }

}  // extern "C"
