# netem.sh: in the guest, transport_cut: two network namespaces, joined by a veth pair with netem at both ends, and cut. $TESTS is the folder of the programs, $DASH a shell.
export PATH=/usr/sbin:/usr/bin:/bin BATON_TEST_SLOW=8
ln -sf "$DASH" /bin/sh # busybox's own shell runs its own ip and nsenter, wherever PATH points
"$TESTS/transport_cut" > /tmp/log 2>&1
code=$?
grep -vE '^\[ RUN  |^\[---|^Running main|^Note: |^$' /tmp/log
[ $code = 0 ] && ! grep -q 'SKIPPED' /tmp/log # here everything is there
