// A device for tests on machines without an accelerator: its memory is the host's, and the CPU's
// kernels run its operations. What makes it useful is what it refuses and counts, as a GPU would:
// operations on tensors of two devices, tensors that NumPy would read, memory beyond its size,
// double precision where it is told to have none, and operations without a deterministic kernel.
//
// It takes the place that PyTorch keeps for private backends. `simulated.py` builds and loads it.

#include <ATen/CPUFunctions.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>

namespace {

constexpr c10::DeviceType kSimulated = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kCount = 2;
thread_local c10::DeviceIndex current_index = 0;

c10::DeviceIndex swap_index(c10::DeviceIndex index) {
  const c10::DeviceIndex old = current_index;
  if (index >= 0) current_index = index;
  return old;
}

// Memory. A header in front of each block keeps its size.

constexpr std::size_t kHeader = 64;
std::atomic<int64_t> bytes_in_use{0}, allocations{0}, capacity{std::numeric_limits<int64_t>::max()};
std::atomic<bool> has_double{true};

void free_block(void* block) {
  if (!block) return;
  char* header = static_cast<char*>(block) - kHeader;
  bytes_in_use -= *reinterpret_cast<int64_t*>(header);
  std::free(header);
}

class SimulatedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    const c10::Device device(kSimulated, current_index);
    if (size == 0) return {nullptr, nullptr, &free_block, device};
    const auto wanted = static_cast<int64_t>(size);
    TORCH_CHECK_WITH(OutOfMemoryError, bytes_in_use + wanted <= capacity,
                     "simulated out of memory. Tried to allocate ", size, " bytes.");
    void* header = nullptr;
    TORCH_CHECK(posix_memalign(&header, kHeader, size + kHeader) == 0, "The host is out of memory");
    *static_cast<int64_t*>(header) = wanted;
    bytes_in_use += wanted;
    ++allocations;
    void* block = static_cast<char*>(header) + kHeader;
    return {block, block, &free_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
};

SimulatedAllocator allocator;
REGISTER_ALLOCATOR(kSimulated, &allocator)

// Devices. Everything runs at once, so the default stream is the only one.

class SimulatedGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  SimulatedGuard() = default;
  explicit SimulatedGuard(c10::DeviceType) {}
  c10::DeviceType type() const override { return kSimulated; }
  c10::Device getDevice() const override { return {kSimulated, current_index}; }
  c10::Device exchangeDevice(c10::Device d) const override { return {kSimulated, swap_index(d.index())}; }
  void setDevice(c10::Device d) const override { swap_index(d.index()); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { swap_index(d.index()); }
  c10::DeviceIndex deviceCount() const noexcept override { return kCount; }
  c10::Stream getStream(c10::Device d) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, SimulatedGuard)

class SimulatedHooks final : public at::PrivateUse1HooksInterface {
 public:
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kCount; }
  c10::DeviceIndex getCurrentDevice() const override { return current_index; }
  void setCurrentDevice(c10::DeviceIndex index) const override { swap_index(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return swap_index(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return swap_index(index); }
  bool isPinnedPtr(const void*) const override { return false; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator generator = at::detail::createCPUGenerator();
    return generator;
  }
};

// Tensors: made, viewed and copied by the few functions that no fallback can stand in for.

void check_dtype(c10::ScalarType dtype) {
  TORCH_CHECK_TYPE(has_double || dtype != at::kDouble, "This simulated device has no float64");
}

at::Tensor make_empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                      std::optional<c10::Device> device, std::optional<bool> pinned,
                      std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!pinned.value_or(false), "Only memory of the CPU can be pinned");
  check_dtype(c10::dtype_or_default(dtype));
  const c10::DeviceGuard guard(device.value_or(c10::Device(kSimulated, current_index)));
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor make_empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                              std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  const c10::DeviceGuard guard(device.value_or(c10::Device(kSimulated, current_index)));
  return at::detail::empty_strided_generic(size, stride, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor strided_view(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride,
                        std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

// A tensor of the CPU that shares this one's memory.
at::Tensor seen_by_host(const at::Tensor& self) {
  if (self.is_cpu()) return self;
  return at::from_blob(self.data_ptr(), self.sizes(), self.strides(), self.options().device(at::kCPU));
}

at::Tensor copy_between(const at::Tensor& from, const at::Tensor& to, bool) {
  const at::AutoDispatchBelowADInplaceOrView below;
  seen_by_host(to).copy_(seen_by_host(from));
  return to;
}

at::Tensor copy_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_between(from, to, false);
}

at::Scalar read_number(const at::Tensor& self) { return at::native::_local_scalar_dense_cpu(seen_by_host(self)); }

at::Tensor& set_to_tensor(at::Tensor& self, const at::Tensor& source) { return at::native::set_tensor_(self, source); }
at::Tensor& set_to_storage(at::Tensor& self, at::Storage source) { return at::native::set_(self, source); }
at::Tensor& set_to_part(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
  return at::cpu::set_(self, source, offset, size, stride);
}

// Everything else runs on the CPU, where CUDA would run it too.

const std::set<std::string> kIndexing{"aten::index", "aten::index_put_", "aten::_index_put_impl_"};
const std::set<std::string> kNotDeterministic{"aten::median", "aten::kthvalue", "aten::histc", "aten::put_"};

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string& name = schema.operator_name().name;
  std::optional<c10::Device> home;
  const auto join = [&](const at::Tensor& tensor) {
    // Operations take a single number of the CPU's as they take a scalar.
    if (!tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0)) return;
    if (!home) home = tensor.device();
    TORCH_CHECK(tensor.device() == *home, "Expected all tensors to be on the same device, but found ", *home,
                " and ", tensor.device(), " in ", name);
  };
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  for (const auto& argument : arguments) {
    if (argument.isTensor()) {
      join(argument.toTensor());
    } else if (kIndexing.count(name)) {
      continue;  // an index may be the host's
    } else if (argument.isTensorList()) {
      for (const at::Tensor& tensor : argument.toTensorList()) join(tensor);
    } else if (argument.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : argument.toOptionalTensorList())
        if (tensor) join(*tensor);
    }
  }
  const bool of_dim = schema.operator_name().overload_name.rfind("dim", 0) == 0;
  const bool weighted = name == "aten::bincount" && arguments[1].isTensor() && arguments[1].toTensor().defined();
  const bool running = name == "aten::cumsum" && arguments[0].toTensor().is_floating_point();
  if (weighted || running || (kNotDeterministic.count(name) && (name != "aten::median" || of_dim)))
    at::globalContext().alertNotDeterministic(name);
  const c10::OptionalDeviceGuard guard(home && !home->is_cpu() ? home : std::nullopt);
  at::native::cpu_fallback(op, stack);
}

// Sparse rows have no fallback: what the package asks of them is the parts and a product.

at::Tensor sparse_product(const at::Tensor& rows, const at::Tensor& dense) {
  TORCH_CHECK(rows.device() == dense.device(), "Expected all tensors to be on the same device");
  const auto part = [](const at::Tensor& tensor) { return seen_by_host(tensor); };
  const auto host = at::_sparse_csr_tensor_unsafe(part(at::native::crow_indices_sparse_csr(rows)),
                                                  part(at::native::col_indices_sparse_csr(rows)),
                                                  part(at::native::values_sparse_csr(rows)), rows.sizes(),
                                                  rows.scalar_type(), at::kSparseCsr, at::Device(at::kCPU), false);
  return at::mm(host, part(dense)).to(rows.device());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, library) {
  library.impl("crow_indices", &at::native::crow_indices_sparse_csr);
  library.impl("col_indices", &at::native::col_indices_sparse_csr);
  library.impl("values", &at::native::values_sparse_csr);
  library.impl("_nnz", &at::native::_nnz_sparse_csr);
  library.impl("mm", &sparse_product);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &make_empty);
  library.impl("empty_strided", &make_empty_strided);
  library.impl("as_strided", &strided_view);
  library.impl("view", &at::native::view);
  library.impl("unfold", &at::native::unfold);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("resize_", &at::native::resize_);
  library.impl("_copy_from", &copy_between);
  library.impl("_copy_from_and_resize", &copy_and_resize);
  library.impl("_local_scalar_dense", &read_number);
  library.impl("set_.source_Tensor", &set_to_tensor);
  library.impl("set_.source_Storage", &set_to_storage);
  library.impl("set_.source_Storage_storage_offset", &set_to_part);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

PYBIND11_MODULE(simulated_device, module) {
  static SimulatedHooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  module.def("current_device", [] { return static_cast<int>(current_index); });
  module.def("set_device", [](int index) { swap_index(static_cast<c10::DeviceIndex>(index)); });
  module.def("device_count", [] { return static_cast<int>(kCount); });
  module.def("allocations", [] { return allocations.load(); });
  module.def("memory_allocated", [] { return bytes_in_use.load(); });
  module.def("set_capacity", [](int64_t bytes) { capacity = bytes; });
  module.def("mem_get_info", [](const py::object&) {
    return std::make_pair(capacity.load() - bytes_in_use.load(), capacity.load());
  });
  module.def("set_has_double", [](bool has) { has_double = has; });
}
