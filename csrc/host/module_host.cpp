// The functions of the data and prediction paths that work on numbers in host memory, outside torch.
#include <pybind11/pybind11.h>

namespace detcore::host {

void bind_run_lengths(pybind11::module_& module);
void bind_outlines(pybind11::module_& module);
void bind_rings(pybind11::module_& module);
void bind_objects(pybind11::module_& module);

}  // namespace detcore::host

PYBIND11_MODULE(detcore_host, module) {
    module.doc() = "Run lengths, outlines and rings of masks, and objects on their way into a batch.";
    detcore::host::bind_run_lengths(module);
    detcore::host::bind_outlines(module);
    detcore::host::bind_rings(module);
    detcore::host::bind_objects(module);
}
