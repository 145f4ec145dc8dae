// Greedy suppression, one image at a time: a box is kept unless a better one of its group, itself kept, suppresses it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <unordered_map>
#include <vector>

namespace detcore::nms {

// Valid boxes by falling score, of equal scores the lower index first; NaN counts as the highest, as in torch's sort.
template <class A>
std::vector<int64_t> order_of(const A* scores, const bool* valid, int64_t count) {
    std::vector<int64_t> order;
    order.reserve(count);
    for (int64_t i = 0; i < count; ++i)
        if (!valid || valid[i]) order.push_back(i);
    const auto before = [scores](int64_t i, int64_t j) {
        const A a = scores[i], b = scores[j];
        return (a > b) || (a != a && b == b);
    };
    std::stable_sort(order.begin(), order.end(), before);
    return order;
}

// Kept: holds boxes of one group; add(i) and suppresses(i) take a box's index.
template <class Kept, class A, class Make>
std::vector<int64_t> keep(const A* scores, const int64_t* groups, const bool* valid, int64_t count, int64_t max_keep,
                          const Make& make) {
    std::vector<int64_t> kept;
    std::unordered_map<int64_t, Kept> by_group;
    Kept* all = groups ? nullptr : &by_group.try_emplace(0, make()).first->second;
    for (int64_t i : order_of(scores, valid, count)) {
        if (static_cast<int64_t>(kept.size()) >= max_keep) break;
        Kept& rivals = groups ? by_group.try_emplace(groups[i], make()).first->second : *all;
        if (rivals.suppresses(i)) continue;
        rivals.add(i);
        kept.push_back(i);
    }
    return kept;
}

}  // namespace detcore::nms
