#include "tools/devctl/screen.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace baton::devctl {
namespace {

void send(const std::string& s) {
  for (size_t at = 0; at < s.size();) {
    const ssize_t n = write(STDOUT_FILENO, s.data() + at, s.size() - at);
    if (n <= 0) return;  // the terminal is gone; the next read of a key says so
    at += size_t(n);
  }
}

}  // namespace

std::string cut(const std::string& line, size_t width) {
  std::string out;
  size_t columns = 0;
  bool coloured = false;
  for (size_t i = 0; i < line.size();) {
    if (line[i] == '\x1b') {
      const size_t end = line.find('m', i);
      if (end == std::string::npos) break;
      out.append(line, i, end + 1 - i);
      coloured = true;
      i = end + 1;
      continue;
    }
    const bool begins = (line[i] & 0xc0) != 0x80;
    if (begins && columns == width) break;
    columns += begins;
    out += line[i++];
  }
  return coloured ? out + "\x1b[0m" : out;
}

Screen::Screen() {
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &before_)) return;
  ok_ = true;
  termios raw = before_;
  raw.c_lflag &= ~tcflag_t(ICANON | ECHO);  // ISIG stays: ctrl-C is a signal
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  send("\x1b[?1049h\x1b[?25l\x1b[2J");
  measure();
}

Screen::~Screen() {
  if (!ok_) return;
  send("\x1b[?25h\x1b[?1049l");
  tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

void Screen::measure() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row) return;
  if (size.ws_col != width_ || size.ws_row != height_) {
    send("\x1b[2J");
    shown_.clear();
  }
  width_ = size.ws_col;
  height_ = size.ws_row;
}

void Screen::draw(const std::vector<std::string>& lines) {
  std::string out;
  shown_.resize(height_);
  for (size_t row = 0; row < height_; ++row) {
    std::string line = row < lines.size() ? cut(lines[row], width_) : "";
    if (line == shown_[row]) continue;
    out += fmt::format("\x1b[{};1H{}\x1b[K", row + 1, line);
    shown_[row] = std::move(line);
  }
  if (!out.empty()) send(out);
}

int Screen::key(uint32_t timeout_ms) const {
  pollfd in{STDIN_FILENO, POLLIN, 0};
  if (poll(&in, 1, int(timeout_ms)) <= 0) return 0;
  char c = 0;
  return read(STDIN_FILENO, &c, 1) == 1 ? static_cast<unsigned char>(c) : 'q';  // no terminal any more
}

}  // namespace baton::devctl
