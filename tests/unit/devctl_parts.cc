// devctl's parts: selectors, tables, units, codes, PCI ids.
#include <gtest/gtest.h>

#include <set>

#include "hal/baton.h"
#include "tools/devctl/codes.h"
#include "tools/devctl/devices.h"
#include "tools/devctl/machine.h"
#include "tools/devctl/output.h"

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

}  // namespace
}  // namespace baton::devctl
