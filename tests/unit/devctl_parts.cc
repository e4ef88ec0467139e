// devctl's parts: selectors, tables, units, codes, PCI ids.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "hal/baton.h"
#include "tools/devctl/codes.h"
#include "tools/devctl/devices.h"
#include "tools/devctl/environment.h"
#include "tools/devctl/machine.h"
#include "tools/devctl/output.h"
#include "tools/devctl/pages.h"
#include "tools/devctl/screen.h"
#include "tools/devctl/tar.h"
#include "tools/devctl/top.h"
#include "tools/devctl/watch.h"

namespace baton::devctl {
namespace {

TEST(Selector, StarIsAnyRun) {
  EXPECT_TRUE(matches("trn*", "trn0"));
  EXPECT_TRUE(matches("trn*", "trn"));
  EXPECT_TRUE(matches("*", "host0"));
  EXPECT_TRUE(matches("*0", "trn10"));
  EXPECT_TRUE(matches("t*n*1*", "trn12"));
  EXPECT_TRUE(matches("trn1", "trn1"));
  EXPECT_FALSE(matches("trn1", "trn10"));
  EXPECT_FALSE(matches("trn*", "cs0"));
  EXPECT_FALSE(matches("*1", "trn0"));
  EXPECT_FALSE(matches("", "trn0"));
  EXPECT_FALSE(matches("a*b*c", "acb"));
}

TEST(Selector, UriHasASlashSlash) {
  EXPECT_TRUE(is_uri("host://"));
  EXPECT_TRUE(is_uri("emu+cs3://0"));
  EXPECT_FALSE(is_uri("trn0"));
  EXPECT_FALSE(is_uri("localhost:80"));
}

TEST(Output, EveryCodeHasAnExit) {
  EXPECT_EQ(exit_code(BATON_OK), 0);
  EXPECT_EQ(exit_code(BATON_INVALID_ARGUMENT), 2);
  EXPECT_EQ(exit_code(BATON_NOT_FOUND), 3);
  EXPECT_EQ(exit_code(BATON_PERMISSION), 4);
  EXPECT_EQ(exit_code(BATON_BUSY), 5);
  EXPECT_EQ(exit_code(BATON_UNSUPPORTED), 6);
  EXPECT_EQ(exit_code(BATON_DEVICE_LOST), 7);
  EXPECT_EQ(exit_code(BATON_PEER_LOST), 7);
  EXPECT_EQ(exit_code(BATON_DEADLINE), 8);
  EXPECT_EQ(exit_code(BATON_VERSION), 9);
  EXPECT_EQ(exit_code(BATON_CANCELLED), 130);
  EXPECT_EQ(exit_code(BATON_INTERNAL), 1);
  EXPECT_EQ(exit_code(12345), 1);
  for (int32_t c = 1; c <= BATON_INTERNAL; ++c) EXPECT_NE(exit_code(c), 0) << baton_code_name(c);
}

TEST(Output, TableAlignsByLetters) {
  Table t({"NAME", "N", "X"});
  t.right(1);
  t.row({"a", "1", "end"});
  t.row({"\xc3\xa4\xc3\xb6\xc3\xbc_long", "100", ""});
  EXPECT_EQ(t.text(" "), " NAME        N  X\n a           1  end\n \xc3\xa4\xc3\xb6\xc3\xbc_long  100\n");
  EXPECT_TRUE(Table({"A"}).empty());
}

TEST(Output, Units) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(64 << 20), "64 MiB");
  EXPECT_EQ(bytes_text(3ull << 29), "1.5 GiB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "16 EiB");
  EXPECT_EQ(ns_text(999), "999 ns");
  EXPECT_EQ(ns_text(1500), "1.50 us");
  EXPECT_EQ(ns_text(2.5e9), "2.50 s");
  EXPECT_EQ(rate_text(12.345e9), "12.35 GB/s");
}

TEST(Output, CleanRemovesWhatATerminalWouldObey) {
  EXPECT_EQ(clean("a\x1b[31mb\nc"), "a?[31mb?c");
  EXPECT_EQ(clean("\xc3\xa4"), "\xc3\xa4");
}

TEST(Codes, EveryCodeIsExplained) {
  std::set<int32_t> seen;
  for (auto& t : code_texts()) {
    EXPECT_TRUE(seen.insert(t.code).second) << t.code;
    EXPECT_FALSE(t.meaning.empty() || t.causes.empty() || t.remedy.empty()) << t.code;
  }
  for (int32_t c = 0; std::string_view(baton_code_name(c)) != "UNKNOWN"; ++c) EXPECT_TRUE(seen.contains(c)) << baton_code_name(c);
}

TEST(Codes, AreFoundByNameAndNumber) {
  ASSERT_TRUE(find_code("DEVICE_LOST"));
  EXPECT_EQ(find_code("DEVICE_LOST"), find_code("device-lost"));
  EXPECT_EQ(find_code("baton_device_lost"), find_code("7"));
  EXPECT_EQ(find_code("7")->code, BATON_DEVICE_LOST);
  EXPECT_FALSE(find_code("7x"));
  EXPECT_FALSE(find_code("99"));
  EXPECT_FALSE(find_code(""));
  EXPECT_FALSE(find_code("-1"));
}

TEST(Machine, KnowsItsPciIds) {
  EXPECT_EQ(pci_name(0x1d0f, 0x7364), "Trainium2");
  EXPECT_EQ(pci_name(0x1d0f, 0x7565), "Trainium3");
  EXPECT_EQ(pci_name(0x1d0f, 0xefa2), "EFA");
  EXPECT_EQ(pci_name(0x1d0f, 0xec20), "");  // an ordinary Amazon NIC
  EXPECT_EQ(pci_name(0x8086, 0x7364), "");
}

TEST(Machine, IsProbed) {
  auto m = probe_machine();
  ASSERT_TRUE(m.ok()) << m.error().text();
  EXPECT_GE(m->cores, 1u);
  EXPECT_GE(m->threads, m->cores);
  EXPECT_GT(m->memory_bytes, 0u);
  EXPECT_FALSE(m->numa.empty());
  EXPECT_EQ(machine_json(*m)["cores"], m->cores);
}

// hal/HOST_SURFACE.md lists what the sources read (tests/docs/surface_test.sh holds it against them): env explains each.
TEST(Environment, IsWhatTheHostSurfaceLists) {
  std::ifstream in(std::string(BATON_SOURCE_DIR) + "/hal/HOST_SURFACE.md");
  std::stringstream page;
  page << in.rdbuf();
  std::set<std::string> known, read;
  for (auto& v : variables()) {
    known.insert(v.name);
    EXPECT_NE(page.str().find("`" + std::string(v.name) + "`"), std::string::npos) << v.name << " is explained, and nothing reads it";
    EXPECT_FALSE(std::string_view(v.meaning).empty());
  }
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("| environment", 0) != 0) continue;
    const std::string names = line.substr(0, line.find('|', line.find('|', 1) + 1));
    for (size_t at = 0; (at = names.find('`', at)) != std::string::npos;) {
      const size_t end = names.find('`', at + 1);
      const std::string name = names.substr(at + 1, end - at - 1);
      if (name.find_first_of("./") == std::string::npos) read.insert(name);
      at = end + 1;
    }
  }
  EXPECT_GT(read.size(), 20u);
  for (auto& name : read) EXPECT_TRUE(known.contains(name)) << name << " is read, and devctl env does not know it (tools/devctl/env.cc)";
}

TEST(Environment, SecretsAreKnownByTheirNames) {
  EXPECT_TRUE(is_secret("AWS_SECRET_ACCESS"));
  EXPECT_TRUE(is_secret("X_API_KEY"));
  EXPECT_FALSE(is_secret("BATON_LAYERS"));
}

TEST(Screen, LinesAreCutByColumnsAndTheirColoursClosed) {
  EXPECT_EQ(cut("abcdef", 3), "abc");
  EXPECT_EQ(cut("\x1b[1mabcdef", 3), "\x1b[1mabc\x1b[0m");
  EXPECT_EQ(cut("\xc3\xa4\xc3\xb6x", 2), "\xc3\xa4\xc3\xb6");
  EXPECT_EQ(cut("", 3), "");
}

json process(uint64_t pid, uint64_t done, uint64_t bytes) {
  return {{"pid", pid}, {"command", "/usr/bin/baton worker --role prefill --device neuron://0"}, {"alive", true}, {"since", ""}, {"devices", json::array({{{"device", "neuron://0"}, {"memory_bytes", 4096}, {"buffers", 2}, {"epoch", 1}, {"lost", false}}})},
          {"queues", json::array({{{"queue", "neuron://0 lane 0"}, {"kind", "lane"}, {"submitted", done + 1}, {"done", done}, {"failed", 0}, {"bytes", bytes}, {"idle_ns", 5'000'000}, {"modelled_ns", done * 1000}}})},
          {"values", {{"baton_requests", 2}, {"baton_tokens_total", done}, {"baton_ttft_wall_seconds{quantile=\"0.5\"}", 123'456'789}, {"baton_itl_wall_seconds{quantile=\"0.5\"}", 123'456'789},
                      {"baton_itl_wall_seconds{quantile=\"0.99\"}", 123'456'789}, {"baton_itl_modelled_seconds{quantile=\"0.5\"}", 123'456'789}}}};
}

TEST(Stats, ADeltaIsBySecondAndByProcess) {
  const json before = {{"processes", json::array({process(7, 100, 1000)})}}, after = {{"processes", json::array({process(7, 300, 5000), process(8, 10, 0)})}};
  const json d = stats_delta(before, after, 2);
  EXPECT_EQ(d["processes"][0]["queues"][0]["ops_per_s"], 100.0);
  EXPECT_EQ(d["processes"][0]["queues"][0]["bytes_per_s"], 2000.0);
  EXPECT_EQ(d["processes"][0]["queues"][0]["modelled_ns_per_s"], 100'000.0);
  EXPECT_EQ(d["processes"][0]["values"]["baton_tokens_total"], 100.0);
  EXPECT_EQ(d["processes"][0]["values"]["baton_requests"], 2);
  EXPECT_EQ(d["processes"][1]["queues"][0]["ops_per_s"], 5.0) << "a new one counts from 0";
}

TEST(Top, HasNicsAndChipsWithoutAnyProcess) {
  const auto nics = [](uint64_t efa, uint64_t mlx) {
    return json{{"processes", json::array()},
                {"nics", json::array({{{"name", "rdmap16s27"}, {"ports", json::array({{{"port", 1}, {"state", "ACTIVE"}, {"rate", "100 Gb/sec (4X EDR)"}, {"counters", {{"tx_bytes", efa}, {"rx_bytes", 7}}}}})}},
                                      {{"name", "mlx5_0"}, {"ports", json::array({{{"port", 2}, {"state", "DOWN"}, {"rate", "10 Gb/sec"}, {"counters", {{"port_rcv_data", mlx}}}}})}}})}};
  };
  const json before = nics(1'000'000, 0), now = nics(5'000'000, 8'000'000);
  json delta = stats_delta(before, now, 2);
  delta["nics"] = nic_rates(before, now, 2);
  EXPECT_EQ(delta["nics"]["rdmap16s27/1"]["sent_per_s"], 2e6);
  EXPECT_EQ(delta["nics"]["rdmap16s27/1"]["received_per_s"], 0.0);
  EXPECT_EQ(delta["nics"]["mlx5_0/2"]["received_per_s"], 4e6);
  const auto chip = [](uint64_t executed, uint64_t ecc) {
    return json{{"instance", "Trn2"}, {"state", "ready"}, {"memory_bytes_used", 1 << 20}, {"executed", executed}, {"hardware", {{"mem_ecc_uncorrected", ecc}, {"mem_ecc_corrected", 9}}}};
  };
  const json chips = json::array({chip(10, 0), chip(20, 0)}), later = json::array({chip(40, 1), chip(30, 0)});
  EXPECT_EQ(chips_line(nullptr, json::array(), 1), "");
  EXPECT_EQ(chips_line(nullptr, chips, 1), "2 Trn2 chips, 2 MiB of HBM used");
  EXPECT_EQ(chips_line(chips, later, 4), "2 Trn2 chips, 2 MiB of HBM used, 10 executions/s, 1 in trouble: devctl health");
  std::string all;
  for (auto& l : top_lines(Output(false, false), now, delta, {.width = 80, .height = 24, .chips = "2 Trn2 chips"})) all += l + "\n";
  for (const char* some : {"2 Trn2 chips", "rdmap16s27/1", "mlx5_0/2", "DOWN", "4.0 MB/s"}) EXPECT_NE(all.find(some), std::string::npos) << some << "\n" << all;
}

TEST(Top, FitsItsTerminalWhateverRuns) {
  json many = {{"processes", json::array()}};
  for (uint64_t i = 0; i < 60; ++i) many["processes"].push_back(process(i + 1, 10, 10));
  Output out(false, false);
  for (size_t height : {3u, 24u, 60u}) {
    const auto lines = top_lines(out, many, stats_delta(many, many, 1), {.width = 80, .height = height});
    EXPECT_EQ(lines.size(), height);
    EXPECT_NE(lines.back().find("q quit"), std::string::npos);
  }
  const auto one = top_lines(out, {{"processes", json::array({process(7, 300, 5000)})}}, nullptr, {.width = 80, .height = 24});
  std::string all;
  for (auto& l : one) {
    EXPECT_LE(l.size(), 80u) << l;
    all += l + "\n";
  }
  EXPECT_NE(all.find("2 requests"), std::string::npos) << all;
  EXPECT_NE(all.find("neuron://0 lane 0"), std::string::npos) << all;
}

TEST(Pages, HoldersOfDeviceNodesAreFoundInProc) {
  char folder[] = "/tmp/baton-proc-XXXXXX";
  ASSERT_TRUE(mkdtemp(folder));
  const std::string proc = folder;
  std::filesystem::create_directories(proc + "/42/fd");
  std::filesystem::create_directories(proc + "/self/fd");
  std::filesystem::create_symlink("/dev/neuron3", proc + "/42/fd/5");
  std::filesystem::create_symlink("/dev/neuron3", proc + "/42/fd/6");
  std::filesystem::create_symlink("/dev/infiniband/uverbs0", proc + "/42/fd/7");
  std::filesystem::create_symlink("/dev/null", proc + "/42/fd/8");
  std::ofstream(proc + "/42/cmdline") << std::string("python3\0serve.py\0", 18);
  const auto found = kernel_holders(proc);
  std::filesystem::remove_all(proc);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].what, "neuron3");
  EXPECT_EQ(found[0].pid, 42u);
  EXPECT_EQ(found[0].command, "python3 serve.py");
  EXPECT_EQ(found[1].what, "uverbs0");
}

}  // namespace
}  // namespace baton::devctl
