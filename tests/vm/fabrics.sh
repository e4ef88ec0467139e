# fabrics.sh: in the guest, the suites over fabrics on $BATON_TEST_FABRICS; $TESTS is the folder of the programs.
export BATON_TEST_LISTEN=10.77.0.1 BATON_TEST_NETDEV=dummy0 BATON_TEST_SLOW=16
status=0
ulimit -n 16384 # 64 sessions in one process

# Nothing run, or something skipped, is a failure: here everything is there.
run() {
  echo "== $*"
  "$TESTS/$@" > /tmp/log 2>&1
  code=$?
  grep -vE '^\[ RUN  |^\[---|^Running main|^Note: |^$' /tmp/log
  [ $code = 0 ] && grep -q '^\[  PASSED  \] [1-9]' /tmp/log && ! grep -q 'SKIPPED' /tmp/log || { status=1; echo "FAILED ($code): $*"; }
}

run transport_kv_link '--gtest_filter=All/OnFabric.*'
few= # 64 endpoints of libfabric's rxm over verbs do not fit into the guest
[ "$BATON_TEST_FABRICS" = verbs ] || few=-*SixtyFour*
run transport_kv_parts "--gtest_filter=All/Parts.*$few"
run transport_kv_recode '--gtest_filter=All/RecodeOn.*'
run transport_seal '--gtest_filter=All/SealedOn.*'
# Two devices as rails: a part of the suite, and one whose port goes down.
export BATON_TEST_RAILS=dummy0,dummy1
run transport_kv_link '--gtest_filter=All/OnFabric.Large*:All/OnFabric.LandedRises*:All/OnFabric.Cancel*:All/OnFabric.ManyRequests*'
[ "$BATON_TEST_FABRICS" != verbs ] || BATON_TEST_NETDEV=dummy1 run transport_rails '--gtest_filter=OverRdma.*Moment*'
unset BATON_TEST_RAILS
run transport_process '--gtest_filter=All/DecodeHere.*:All/PrefillHere.*-*APort*'
BATON_TEST_RAILS=dummy0,dummy1 BATON_TEST_NETDEV=dummy1 run transport_rails '--gtest_filter=OverRdma.*Stays*' # the last that uses dummy1: it may be broken then
if [ "$BATON_TEST_FABRICS" = verbs ]; then # libfabric hears of no port: its writes fail when their retries are up
  run transport_verbs
  run transport_process '--gtest_filter=*APort*' # the last: see transport_verbs.cc
fi
exit $status
