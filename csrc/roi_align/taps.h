// The pixels that the samples of a RoI's bins read, along one axis.
#pragma once

#include <algorithm>
#include <vector>

#include "roi_align/op.h"

namespace detcore::roi_align {

template <class A>
struct Tap {
    int pixel, bin;
    A weight;
};

// The pixels that each bin of an axis reads; those of bin b are taps[first[b]] to taps[first[b + 1]].
template <class A>
struct Taps {
    std::vector<Tap<A>> taps;
    std::vector<int> first;

    void make(const Axis<A>& axis, int bins, int size) {
        taps.clear();
        first.assign(1, 0);
        const A share = A(1) / A(std::max(axis.samples, 1));
        for (int bin = 0; bin < bins; ++bin) {
            for (int i = 0; i < axis.samples; ++i) {
                const auto [low, rest] = between(axis.place(bin, i), size);
                if (low < 0) continue;
                add(low, bin, (1 - rest) * share);
                if (rest > 0) add(low + 1, bin, rest * share);
            }
            first.push_back(static_cast<int>(taps.size()));
        }
    }

    // By pixel instead of by bin, as the backward pass goes through them.
    void sort_by_pixel() {
        std::stable_sort(taps.begin(), taps.end(), [](const auto& a, const auto& b) { return a.pixel < b.pixel; });
    }

  private:
    void add(int pixel, int bin, A weight) {
        for (int i = static_cast<int>(taps.size()) - 1; i >= first.back() && i >= static_cast<int>(taps.size()) - 2;
             --i) {
            if (taps[i].pixel == pixel) {
                taps[i].weight += weight;
                return;
            }
        }
        taps.push_back({pixel, bin, weight});
    }
};

}  // namespace detcore::roi_align
