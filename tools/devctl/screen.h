// screen.h: a terminal taken over for a live view: alternate screen, keys without Return, and frames of which only the lines that differ are
// written, in one write: nothing flickers and little is sent.
//
// Owner    the verb; the terminal is put back by the destructor.   Threads  one.   Cost  a frame: one ioctl, one write of what changed.
// Errors   ok() is false where stdin and stdout are no terminal.
//
//     Screen s; s.draw({"hello"}); switch (s.key(1000)) { case 'q': return; }
#pragma once

#include <termios.h>

#include <cstdint>
#include <string>
#include <vector>

namespace baton::devctl {

class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  bool ok() const { return ok_; }
  size_t width() const { return width_; }
  size_t height() const { return height_; }
  void measure();  // the terminal's size, now
  // Lines may hold SGR escapes; they are cut at the width, and below the height.
  void draw(const std::vector<std::string>& lines);
  int key(uint32_t timeout_ms) const;  // 0: none came

 private:
  bool ok_ = false;
  termios before_{};
  size_t width_ = 80, height_ = 24;
  std::vector<std::string> shown_;
};

// The first `width` columns of a line (a code point is a column), its colours closed.
std::string cut(const std::string& line, size_t width);

}  // namespace baton::devctl
