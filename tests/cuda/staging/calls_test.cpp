// SPDX-License-Identifier: Apache-2.0
// The calls of CUDA that each operation makes when everything it needs is there: calls.txt has
// them, so that a call added later is seen.
#include <fstream>
#include <map>
#include <sstream>

#include "staging_fixture.h"

namespace dlbridge::test {
namespace {

class Calls : public StagingTest {
 protected:
  // A line for each function that `operation` calls at its third time. Of an asynchronous one
  // without what its thread does, which depends on the time.
  std::string calls_of(const std::string& name, const std::function<void()>& operation,
                       bool async = false) {
    const auto run = [&] {
      operation();
      EXPECT_TRUE(cuda::drain(10));
    };
    run();
    run();
    const auto before = counts();
    run();
    std::string text = name + "\n";
    for (const auto& [function, count] : counts()) {
      const uint64_t more = count - before.at(function);
      const bool of_thread = function.starts_with("event_query") || function.starts_with("ctx_") ||
                             function == "event_synchronize" ||
                             function == "thread_exchange_stream_capture_mode";
      if (more > 0 && !(async && of_thread))
        text += "  " + function + " " + std::to_string(more) + "\n";
    }
    return text;
  }

 private:
  std::map<std::string, uint64_t> counts() {
    std::map<std::string, uint64_t> all;
#define DRIVER(member, symbol, parameters) all[#member] = sim().calls(#member);
#include "runtime/cuda_api.def"
#undef DRIVER
    for (const char* kernel : {"gather", "launch"}) all[kernel] = sim().calls(kernel);
    return all;
  }
};

TEST_F(Calls, AreThoseOfTheTable) {
  start({.max_not_ready = 0});
  const CUstream caller = stream();
  TestTensor& small = device({{64}});
  TestTensor& large = device({{1'000'000}});
  TestTensor& strided = device({{1'000'000}, std::vector<int64_t>{2}});
  TestTensor& pinned = foreign_pinned({{1'000'000}});
  TestTensor& pageable = host({{16}});
  std::vector<TensorView> batch(4096, small.view());
  const Stream on_caller = on(caller);
  std::string found;
  found += calls_of("256 B to the host",
                    [&] { static_cast<void>(cuda::stage_to_host(small.view(), on_caller)); });
  found += calls_of("4 MB to the host",
                    [&] { static_cast<void>(cuda::stage_to_host(large.view(), on_caller)); });
  found += calls_of("4 MB of every second element to the host",
                    [&] { static_cast<void>(cuda::stage_to_host(strided.view(), on_caller)); });
  found += calls_of("4096 tensors of 256 B to the host",
                    [&] { static_cast<void>(cuda::stage_to_host(batch, on_caller)); });
  const auto asynchronous = [&] {
    const cuda::Future future = cuda::stage_to_host_async(large.acquire(), on_caller);
    EXPECT_TRUE(future.wait(10));
  };
  found += calls_of("4 MB to the host, asynchronous", asynchronous, true);
  found += calls_of("4 MB of pinned memory to the device",
                    [&] { cuda::stage(pinned.view(), large.view(), on_caller); });
  TestTensor& target = device({{16}});
  found += calls_of("64 B of pageable memory to the device",
                    [&] { cuda::stage(pageable.view(), target.view(), on_caller); });
  std::ifstream file(DLBRIDGE_CALLS_FILE);
  std::stringstream expected;
  expected << file.rdbuf();
  EXPECT_EQ(found, expected.str()) << "the calls differ from " DLBRIDGE_CALLS_FILE
                                      ": if that is meant, write what was found into it:\n"
                                   << found;
}

}  // namespace
}  // namespace dlbridge::test
