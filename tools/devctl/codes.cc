#include "tools/devctl/codes.h"

#include "hal/baton.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <string>

namespace baton::devctl {
namespace {

constexpr CodeText kTexts[] = {
    {BATON_OK, "The call did what it was asked to do.", "-", "Nothing."},
    {BATON_INVALID_ARGUMENT, "The call itself is wrong: nothing was started.",
     "An offset or length outside a buffer, a lane that the device does not have, a selector that means several devices, a program that does not verify.",
     "Correct the call: the text names the value and the limit that it breaks."},
    {BATON_NOT_FOUND, "Something named does not exist here: a device, a driver, an emulator, a file.",
     "A misspelt name, a driver file that is not in lib/baton, no such hardware in this machine.",
     "Run 'devctl list' for the devices and 'devctl version' for the drivers and emulators that were found."},
    {BATON_PERMISSION, "Access was refused.",
     "The two sides of a session hold different keys, a key file that others may read, a device node of another user's.",
     "Give both sides the same key file (mode 0600); add yourself to the group that owns the device node."},
    {BATON_BUSY, "Somebody else holds it.", "A port that is listened on, a core that another process has claimed, a worker that serves another request.",
     "The text names the holder. End it, wait, or choose another port, core or device."},
    {BATON_UNSUPPORTED, "This device or this build cannot do that, and never will in this configuration.",
     "A heap that cannot be mapped or exported, a copy between two memories with no path, a dtype that the device does not have.",
     "Run 'devctl topo A B' for copies, 'devctl info DEV' for what a heap can do."},
    {BATON_CAPACITY, "There is no room: memory, blocks or slots are used up.",
     "Weights and KV-cache larger than a heap, more tokens than a program was built for, too many requests at once.",
     "The text holds used and total. Free something, shorten the context, or spread over more lanes or wafers."},
    {BATON_DEVICE_LOST, "The device was reset or is gone; handles of its old epoch are stale.",
     "A reset by anybody, a device that fell off the bus, an emulator process that ended.",
     "Close the device, open it again, load programs and fill memory again; a request that was in flight has to be repeated."},
    {BATON_PEER_LOST, "The other process or host is gone, or has been silent for longer than its lease.",
     "It was killed, its host rebooted, the network between is cut, it was stopped in a debugger.",
     "Look at the hop in the error, start that side again and repeat the request. Blocks of the lost request are free by now."},
    {BATON_DEADLINE, "The time that the caller gave is over.", "A deadline that is too short, a device that hangs, a timeline that nobody will signal.",
     "Give more time; if it happens again, look with --trace at what the time was spent on."},
    {BATON_CANCELLED, "The caller, or the other side, cancelled.", "A queue or transfer was closed with work in flight, a request was ended by its client.",
     "Nothing, if that was you. Otherwise the hop says who it was."},
    {BATON_VERSION, "Two parts speak different versions; both are named.", "A driver built for another libbaton, a worker or daemon of another release.",
     "Install the same release on both sides; 'devctl version' prints this side's."},
    {BATON_MISMATCH, "Two sides disagree about what they share: the model, the KV layout, the plan.",
     "A prefill and a decode worker that loaded different weights, a different dtype or number of heads.",
     "The text names the first difference. Start both sides with the same model folder."},
    {BATON_CORRUPT, "Bytes are malformed.", "A truncated or damaged file, a program that was not written by Baton, a peer that is none.",
     "Fetch the file again and compare its checksum; the text says where it stops making sense."},
    {BATON_FAILED, "The device executed the work and reported that it failed.", "A numerical trap, a fault that was injected by a plan, a vendor's status code.",
     "The text holds the device's own words. 'devctl info DEV' shows whether the device still answers."},
    {BATON_IO, "A system call failed; the text holds errno.", "No such file, no space, no memory that may be locked, a network that is unreachable.",
     "Correct what errno says: 'ulimit -l' for locked memory, 'df' for space."},
    {BATON_INTERNAL, "A bug in Baton.", "An invariant of the library did not hold.", "Please report it with the text and, if you can, a --trace file."},
};

}  // namespace

std::span<const CodeText> code_texts() { return kTexts; }

const CodeText* find_code(std::string_view text) {
  std::string name(text);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return c == '-' ? '_' : char(std::toupper(c)); });
  if (name.starts_with("BATON_")) name.erase(0, 6);
  int32_t number = -1;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size()) number = -1;
  for (auto& t : kTexts)
    if (t.code == number || name == baton_code_name(t.code)) return &t;
  return nullptr;
}

}  // namespace baton::devctl
