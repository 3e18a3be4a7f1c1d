#include "resample_blocks.h"

#include <memory>
#include <vector>

#include "resample_tile.h"

namespace fastfid {

void resample_blocks(const Job* jobs, int64_t count, const Plan& plan) {
    with_tile(plan, [&](auto tile) {
        using T = decltype(tile);
        std::vector<typename T::Mine> mine(kThreads);
        const int64_t blocks = count * T::tiles(plan.output);
        for (int64_t block = 0; block < blocks; ++block) {
            const auto shared = std::make_unique<typename T::Shared>();  // fresh: a read of what was not written shows
            const Place place = T::place_of(block, plan.output);
            const Job& job = jobs[place.index];
            const auto phase = [&](auto&& work) {
                for (int thread = 0; thread < kThreads; ++thread) work(thread, mine[thread]);
            };
            using Mine = typename T::Mine;
            int64_t end;
            RowSet set = T::first_set(job, place, &end);
            phase([&](int, Mine& m) { T::begin(m); });
            do {
                phase([&](int t, Mine&) { T::horizontal(t, job, place, set, *shared); });
                phase([&](int t, Mine& m) { T::vertical(t, job, place, set, *shared, m); });
            } while (T::next_set(&set, end));
            phase([&](int t, Mine& m) { T::stage(t, *shared, m); });
            phase([&](int t, Mine&) { T::write(t, plan, place, *shared); });
        }
    });
}

}  // namespace fastfid
