# shellcheck shell=sh
# NVMe drives of the machine `drives` (lab/machines/drives), as a scenario sees them.

MANY=0000:00:10.0 CMB=0000:00:11.0 TWIN_A=0000:00:12.0 TWIN_B=0000:00:12.1 HOT=0000:01:00.0
DRIVES="$MANY $CMB $TWIN_A $TWIN_B $HOT"
PCI=/sys/bus/pci/devices

# Somebody who is not root.
echo 'user:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd
as_user() { run 60 su -s /bin/sh user -c "$*"; }

driver() { basename "$(readlink $PCI/"$1"/driver)" 2>/dev/null; } # ADDRESS
bound() { [ "$(driver "$1")" = "$2" ]; }                          # ADDRESS DRIVER

group() { basename "$(readlink $PCI/"$1"/iommu_group)"; }         # ADDRESS

# The kernel's block device of a namespace, found by its controller and its identifier: names are not in that order.
block_device() { # ADDRESS NSID
  for path in $PCI/"$1"/nvme/nvme*/nvme*n*; do
    [ "$(cat "$path/nsid" 2>/dev/null)" = "$2" ] || continue
    # A path, nvme4c4n1, leads to the device nvme4n1.
    name=${path##*/}; echo "/dev/$(echo "$name" | sed 's/c[0-9]*n/n/')"
    return
  done
  return 1
}

pcie() { echo "trtype:PCIE traddr:$1${2:+ ns:$2}"; } # ADDRESS [NSID]

setup() { run 60 doorbell setup "$@"; }
kernel_quiet() { ! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task|DMAR.*fault' >$LOG; }

# One command to QEMU's monitor, as JSON; its answer into $LOG.
monitor() { # COMMAND
  if [ -z "$monitor" ]; then
    for monitor in /sys/class/virtio-ports/*; do [ "$(cat "$monitor/name")" != monitor ] || break; done
    exec 8<>"/dev/${monitor##*/}"
    monitor '{"execute": "qmp_capabilities"}' || return
  fi
  echo "+ monitor $1" >>$LOG
  echo "$1" >&8
  # Events may come before the answer.
  while read -r -t 20 answer <&8; do
    echo "$answer" >>$LOG
    case $answer in *'"return"'*) return 0 ;; *'"error"'*) return 1 ;; esac
  done
  return 1
}
