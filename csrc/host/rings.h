// Rings cut down to rectangles.
#pragma once

#include <vector>

namespace detcore::host {

// Cuts a ring x0, y0, x1, y1, ... to a rectangle x0, y0, x1, y1; `spare` is memory to work in.
void clip_ring(std::vector<double>& ring, std::vector<double>& spare, const double* rectangle);

}  // namespace detcore::host
