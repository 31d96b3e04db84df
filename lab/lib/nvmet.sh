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
