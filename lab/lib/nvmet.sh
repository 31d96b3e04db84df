# shellcheck shell=sh
# The kernel's NVMe target (nvmet), set up through configfs inside the guest.

NVMET=/sys/kernel/config/nvmet

# A memory-backed block device; prints its path.
null_device() { # NAME MEBIBYTES BLOCK_SIZE
  d=/sys/kernel/config/nullb/$1
  mkdir $d
  echo "$2" >$d/size
  echo "$3" >$d/blocksize
  echo 1 >$d/memory_backed
  echo 1 >$d/power
  echo "/dev/$1"
}

subsystem() { # NQN SERIAL
  mkdir $NVMET/subsystems/"$1"
  echo 1 >$NVMET/subsystems/"$1"/attr_allow_any_host
  echo "$2" >$NVMET/subsystems/"$1"/attr_serial
}

namespace() { # NQN NSID PATH
  n=$NVMET/subsystems/$1/namespaces/$2
  mkdir "$n"
  # A file on tmpfs goes through the page cache.
  [ -b "$3" ] || echo 1 >"$n/buffered_io"
  printf %s "$3" >"$n/device_path"
  echo 1 >"$n/enable"
}

port() { # ID ipv4|ipv6 ADDRESS PORT [ATTRIBUTE=VALUE…]
  p=$NVMET/ports/$1
  mkdir "$p"
  echo tcp >"$p/addr_trtype"
  echo "$2" >"$p/addr_adrfam"
  echo "$3" >"$p/addr_traddr"
  echo "$4" >"$p/addr_trsvcid"
  shift 4
  for attribute; do echo "${attribute#*=}" >"$p/${attribute%%=*}"; done
}

publish() { ln -s $NVMET/subsystems/"$2" $NVMET/ports/"$1"/subsystems/"$2"; } # PORT NQN
withdraw() { rm $NVMET/ports/"$1"/subsystems/"$2"; }

# Bytes read from or written to a block device so far, as its driver counted them.
bytes_read() { awk '{print $3 * 512}' /sys/block/"$1"/stat; }
bytes_written() { awk '{print $7 * 512}' /sys/block/"$1"/stat; }

# What a run reads before it writes, to see what is there.
LOOK=$((2 << 20))
# perf on one device, which must have counted exactly COUNT x SIZE bytes, and the look.
perf_exact() { # NAME DEVICE COUNT SIZE PERF-OPTION…
  exact=$1 device=$2 count=$3 size=$4 look=0; shift 4
  case " $* " in *' -w write '* | *' -w randwrite '* | *' -w rw '* | *' -w randrw '*) look=$LOOK ;; esac
  before=$(($(bytes_read "$device") + $(bytes_written "$device")))
  perf "$exact" -d "$count" -o "$size" -t 60 "$@" || return
  moved=$(($(bytes_read "$device") + $(bytes_written "$device") - before - look))
  if [ $moved = $((count * size)) ]; then ok "$exact.counted"
  else fail "$exact.counted" "the kernel counted $moved bytes on $device, not $count x $size"; fi
}

more_read() { [ "$(bytes_read n512)" -gt "$1" ]; }
# A run on $ONE, behind which stands n512, that outlives what is done to the target: it says when the controller is lost and when it is back, goes on with its I/Os,
# and its result says how long it was gone.
outlives() { # NAME AWAY BACK
  name=$1 away=$2 back=$3
  echo "+ doorbell perf --reconnect during: $away, $back" >$LOG
  doorbell perf -r "$ONE" -q 32 -o 4096 -w randread -P 2 -t 300 -c 0x1 --reconnect 50 >>$LOG 2>&1 & pid=$!
  wait_for 20 grep -q 'Launching workers' $LOG
  sleep 2
  $away
  if ! wait_for 30 grep -q 'bringing it back' $LOG; then fail "$name" "the loss was not noticed"; kill -9 $pid; wait $pid; $back; return; fi
  sleep 3
  $back
  if ! wait_for 40 grep -q 'it is back after' $LOG; then fail "$name" "not back 40 s after: $back"; kill -9 $pid; wait $pid; return; fi
  before=$(bytes_read n512)
  wait_for 30 more_read "$before" || fail "$name.resumed" "no I/O after: $back"
  sleep 1
  kill -INT $pid
  wait_for 20 ended $pid || kill -9 $pid
  wait $pid; status=$?
  if [ $status != 0 ]; then fail "$name" "status $status after: $away, $back"
  elif ! total; then fail "$name" "no results after: $away, $back"
  elif ! grep -qE '^Outage: [0-9.]+ s without I/O on' $LOG; then fail "$name" "the result does not say how long it was gone"
  else ok "$name"; grep '^Outage' $LOG; fi
}
