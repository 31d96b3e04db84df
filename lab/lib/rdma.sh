# shellcheck shell=sh
# RDMA in the guest: a soft device on the network card of the machine `rdma` (lab/machines/rdma).

V4=192.168.159.142 V6=fd00:142::1

# Loads what a soft device needs and puts one, of that name, on the card.
rdma_up() { # rxe|siw
  KIND=$1
  # Soft RoCE does not say that it misses the checksum.
  for module in crc32_generic virtio_net ib_uverbs rdma_ucm; do modprobe $module || return; done
  case $KIND in rxe) modprobe rdma_rxe ;; siw) modprobe crc32c_generic && modprobe libcrc32c && insmod /lab/siw.ko ;; esac || return
  # By path, as busybox has an ip of its own.
  /bin/ip link set eth0 up
  /bin/ip address add $V4/24 dev eth0
  /bin/ip address add $V6/64 dev eth0 nodad
  rdma_add
}
rdma_add() { rdma link add $KIND type $KIND netdev eth0; }
# The kernel waits until every process has let go of the device: here not for ever.
rdma_delete() {
  rdma link delete $KIND & deletion=$!
  wait_for 120 ended $deletion && return
  { echo "+ rdma link delete $KIND, held by:"; holders; } >>$LOG
  fail device-deleted "a process holds the device 120 s after rdma link delete"
  return 1
}
# Processes that have the device open, or memory of it.
holders() {
  for p in /proc/[0-9]*; do
    if ls -l $p/fd 2>/dev/null | grep infiniband || grep infiniband $p/maps 2>/dev/null; then echo "  $p: $(tr '\0' ' ' <$p/cmdline)"; fi
  done
  echo "+ rdma resource"; rdma resource show qp; rdma resource show cm_id
}

# Whether somebody listens at the port, through the connection manager.
rdma_listening() { rdma resource show cm_id | grep LISTEN | grep -q ":$1 "; }

# Two processes that go through the link by itself: SEND, RDMA READ and WRITE, completions polled and announced.
rdma_link() { # NAME ADDRESS [shared|sleep]…
  link=$1 to=$2; shift 2
  doorbell-lab rdma-serve "$to" "$@" >/tmp/serve 2>&1 & server=$!
  wait_for 20 rdma_listening "${to##*:}"
  check "$link.ask" run 60 doorbell-lab rdma-ask "$to" 50 "$@"
  wait_for 20 ended $server || kill -9 $server
  cp /tmp/serve $LOG
  check "$link.serve" wait $server
}

# A target that does wrong, for as long as a command takes that must notice.
rdma_peer() { # NAME MISDEED PATTERN COMMAND…
  peer_name=$1 misdeed=$2 pattern=$3; shift 3
  doorbell-lab rdma-peer $V4:4430 "$misdeed" >/tmp/peer 2>&1 & peer=$!
  wait_for 20 rdma_listening 4430
  check_refused "$peer_name" 90 "$pattern" "$@"
  kill $peer; wait $peer 2>/dev/null
}
