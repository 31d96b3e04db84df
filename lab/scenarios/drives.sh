# shellcheck shell=sh
#: machine drives
#: modules nvme ext4
#: programs mkfs.ext4 doorbell-lab
#: seconds 600
# NVMe drives behind an IOMMU: what keeps them from being driven and who uses them, moving them to vfio-pci and back, and driving them:
# what one driver wrote, ours or the kernel's, the other reads.
. /lab/guest.sh
. /lab/drives.sh

for drive in $DRIVES; do need drives wait_for 30 bound $drive nvme; done
MANY1=$(block_device $MANY 1) META=$(block_device $MANY 5) MANY2=$(block_device $MANY 2) CMB1=$(block_device $CMB 1) HOT1=$(block_device $HOT 1)
TWIN1=$(block_device $TWIN_A 1) TWIN2=$(block_device $TWIN_B 1)

# What the kernel's driver writes now, ours reads later.
make_random
mv /tmp/random /tmp/kernels
for device in "$MANY1" "$MANY2" "$CMB1" $META; do dd if=/tmp/kernels of="$device" bs=1M oflag=direct 2>/dev/null; done
make_random

# --- what is in the way, and who uses what

# A mount that only another name space sees.
run 30 mkfs.ext4 -q "$HOT1"
unshare -m sh -c "mount $HOT1 /mnt && touch /tmp/hidden && exec sleep 1000" & hidden=$!
wait_for 10 test -e /tmp/hidden
run 30 mkfs.ext4 -q "$TWIN1"
mkdir -p /mnt/twin
mount "$TWIN1" /mnt/twin
mkswap "$TWIN2" >/dev/null
swapon "$TWIN2"
sleep 1000 <"$CMB1" & reader=$!

check status setup status
for drive in $DRIVES; do said status.lists-$drive "^$drive +QEMU NVMe Ctrl, serial LAB-"; done
said status.iommu 'IOMMU +dmar'
said status.module 'modprobe vfio-pci'
said status.type1 'modprobe vfio_iommu_type1'
said status.no-huge-pages 'setup bind --hugepages'
said status.driver 'driver +nvme \(nvme[0-9]+\)'
said status.namespaces "namespaces .*${MANY1##*/}"
said status.bind "doorbell setup bind $MANY"
said status.mounted "${TWIN1##*/} is mounted on /mnt/twin"
said status.umount 'umount /mnt/twin'
said status.swap "swapoff $TWIN2"
said status.elsewhere "${HOT1##*/} is opened exclusively"
said status.reader "process $reader .*sleep 1000.* has nvme"
said status.kill "kill $reader"
said status.group "with $TWIN_B \(nvme\)"
check status.json setup status --json
said status.json.serial '"serial": "LAB-MANY"'
check status.user as_user doorbell setup status
said status.user.pinned 'may pin +at most'
said status.user.driver "doorbell setup bind $MANY"

# --- to vfio-pci

check_refused bind.user 20 'run this as root|modprobe' su -s /bin/sh user -c "doorbell setup bind $MANY"
check bind setup bind $MANY
said bind.modprobe 'modprobe vfio_iommu_type1'
said bind.override "vfio-pci to .*driver_override"
said bind.done "$MANY: vfio-pci has it"
check bind.link bound $MANY vfio-pci
check bind.again setup bind $MANY
said bind.again.told 'has it already'
for drive in $CMB $TWIN_A $TWIN_B $HOT; do
  check_refused bind.in-use.$drive 20 "$drive is in use and was not touched" doorbell setup bind $drive
  check bind.in-use.$drive.untouched bound $drive nvme
done
check_refused bind.no-such-serial 20 'force LAB-NONE' doorbell setup bind $CMB --force LAB-NONE
check_refused bind.no-such-device 20 'no PCI function 0000:0a:00.0' doorbell setup bind 0a:00.0
check_refused bind.other-class 20 'is no NVMe device' doorbell setup bind 0000:00:1f.2
umount /mnt/twin
check bind.half-a-group wait_for 10 doorbell setup bind $TWIN_A
check status.bound setup status
said status.ready "ready .*trtype:PCIE traddr:$MANY"
said status.group-held "holds $TWIN_B too, which the driver nvme has"
check status.not-of-user as_user doorbell setup status
said status.not-of-user.chown 'chown 1000 /dev/vfio/'
swapoff "$TWIN2"
check bind.all setup bind --all
said bind.all.in-use "$CMB is in use and stays"
check bind.all.twin bound $TWIN_B vfio-pci
check bind.all.in-use.untouched bound $CMB nvme
check bind.forced setup bind $CMB --force LAB-CMB
said bind.forced.told "taken although process $reader"
check bind.forced.link bound $CMB vfio-pci
kill $hidden $reader
check bind.unmounted wait_for 20 doorbell setup bind $HOT

# --- driving them, without huge pages first

check identify run 40 doorbell identify -r "$(pcie $MANY)"
said identify.serial 'serial: +LAB-MANY'
said identify.model 'QEMU NVMe Ctrl'
said identify.block-sizes 'block size: +4096'
check identify.json run 40 doorbell identify --json -r "$(pcie $CMB)"
said identify.json.serial '"LAB-CMB'

# --- what is there is asked about before it is written over

WRITE='-q 8 -o 4096 -w write -d 100 -t 30 -c 0x1'
asks() { # NAME ADDRESS WHAT
  # shellcheck disable=SC2086
  check_refused overwrite.$1 40 "it holds $3" doorbell perf -r "$(pcie $2)" $WRITE
  insist=$(sed -n "s/.* add --overwrite '\(.*\)'\$/\1/p" $LOG)
  # shellcheck disable=SC2086
  perf overwrite.$1.insisted -r "$(pcie $2)" $WRITE --overwrite "$insist"
  # shellcheck disable=SC2086
  perf overwrite.$1.gone -r "$(pcie $2)" $WRITE
}
asks ext4 $HOT 'an ext4 file system'
asks swap $TWIN_B 'a swap area'

# --- what drives say of themselves

perf health -r "$(pcie $MANY 1)" -q 8 -o 4096 -w read -d 100 -t 30 -c 0x1 -l --json /tmp/health.json
said health.intel 'not available: they are something of Intel.s drives, and the vendor here is 1b36h'
check health.before grep -q '"before":{"critical_warnings":\[\],"temperature_c":[0-9]' /tmp/health.json
if [ -e /lab/with-ocp ]; then
  check health.ocp [ "$(grep -o '"ocp":{"physical_written_bytes":[0-9]*' /tmp/health.json | wc -l)" = 2 ]
  check identify.pages run 40 doorbell identify -r "$(pcie $MANY)"
  said identify.pages.ocp 'Health Information Extended, OCP \(C0h\)'
  said identify.pages.ocp.content 'physical read bytes: +[0-9]'
else skip health.ocp 'this QEMU has no drives with the page of the Open Compute Project'; fi
check identify.pages.plain run 40 doorbell identify -r "$(pcie $CMB)"
said identify.pages.smart 'SMART / Health Information \(02h\)'
check identify.pages.no-ocp sh -c "! grep -q OCP $LOG"

# What perf says it completed is what was asked for.
perf_exact() { # NAME COUNT PERF-OPTION…
  exact=$1 count=$2; shift 2
  perf "$exact" -d "$count" -t 60 --transport-stats "$@" && said "$exact.counted" "^\s*completions: +$count\$"
}
ONE=$(pcie $MANY 1) TWO=$(pcie $MANY 2)
for pattern in read write randread randwrite 'rw -M 50' 'randrw -M 70'; do
  # shellcheck disable=SC2086
  perf_exact "pattern.$(echo "$pattern" | tr -d ' ')" 300 -r "$(pcie $HOT)" -q 32 -o 4096 -w $pattern -c 0x1
done
check huge-pages setup bind --hugepages 32
said huge-pages.told '32 to .*hugepages-2048kB/nr_hugepages'
for size in 512 4096 8192 12288 65536 131072; do
  perf_exact size.$size 100 -r "$(pcie $HOT)" -q 16 -o $size -w randrw -M 50 -c 0x1
done
# Larger than the 512 KiB that a command moves.
perf size.1048576 -d 20 -t 60 -r "$(pcie $HOT)" -q 4 -o 1048576 -w randrw -M 50 -c 0x1
perf_exact block-4096 200 -r "$TWO" -q 16 -o 8192 -w randread -c 0x1
for depth in 1 2 8 127 128; do perf_exact depth.$depth 256 -r "$ONE" -q $depth -o 4096 -w randread -c 0x1; done
perf_exact shadow 200 -r "$ONE" -q 16 -o 4096 -w randread -c 0x1
said shadow.doorbells 'sq_shadow_doorbell_updates: +[1-9]'
if [ -e /lab/without-shadow-doorbells ]; then
  perf_exact plain 200 -r "$(pcie $TWIN_B)" -q 16 -o 4096 -w randrw -M 50 -c 0x1
  said plain.doorbells 'sq_mmio_doorbell_updates: +[1-9]'
  said plain.doorbells.only 'sq_shadow_doorbell_updates: +0$'
else skip plain 'this QEMU offers shadow doorbells with every drive'; fi
perf_exact qpairs 400 -r "$ONE" -q 64 -o 4096 -w randread -P 4 -c 0x1
perf cores -d 200 -t 60 -r "$ONE" -q 16 -o 4096 -w randread -c 0x3
check cores.rows [ "$(rows)" = 2 ]
perf_exact interrupts 200 -r "$ONE" -q 16 -o 4096 -w randread -E -c 0x1
perf_exact interrupts.adaptive 200 -r "$ONE" -q 1 -o 4096 -w randread --poll-mode adaptive -c 0x1
perf interrupts.cores -d 200 -t 60 -r "$ONE" -q 8 -o 4096 -w randread -E -P 2 -c 0x3
perf_exact cmb 200 -r "$(pcie $CMB)" -q 32 -o 4096 -w randread -c 0x1
perf_exact cmb.off 200 -r "$(pcie $CMB)" -q 32 -o 4096 -w randread -D -c 0x1
perf_exact no-huge 200 -r "$ONE" -q 32 -o 4096 -w randread --no-huge -s 256 -c 0x1
perf latency -d 300 -t 60 -r "$ONE" -q 8 -o 4096 -w randread -LL -c 0x1
said latency.summary '99\.99900%'
perf everything -d 100 -t 60 -q 8 -o 4096 -w randread -c 0x1
check everything.rows [ "$(rows)" = 9 ]
perf allowed -d 100 -t 60 -q 8 -o 4096 -w randread -c 0x1 -b $CMB -b $HOT
check allowed.rows [ "$(rows)" = 2 ]
check_refused zoned 40 'zones are written in order' doorbell perf -r "$(pcie $MANY 3)" -q 8 -o 4096 -w randwrite -d 10 -t 30 -c 0x1
# Metadata behind the data of each block, and apart from it.
for ns in 4 5; do perf metadata.$ns -r "$(pcie $MANY $ns)" -q 8 -o 4096 -w randread -d 10 -t 30 -c 0x1; done
check_refused too-many-queues 40 'queue' doorbell perf -r "$(pcie $CMB)" -q 64 -o 4096 -w randread -P 4 -d 100 -t 30 -c 0x1

# --- what the kernel wrote is what we read; what we write the kernel finds below

same() { # ADDRESS NSID
  run 90 sh -c "doorbell-lab read '$(pcie "$1" "$2")' 33554432 >/tmp/seen" && cmp /tmp/kernels /tmp/seen >>$LOG 2>&1
}
check data.read.many same $MANY 1
check data.read.block-4096 same $MANY 2
check data.read.cmb same $CMB 1
# Of blocks whose metadata is apart.
seen() { run 60 sh -c "doorbell-lab look '$(pcie $MANY "$1")' 1048576 >/tmp/seen && head -c 1048576 /tmp/kernels | cmp - /tmp/seen" >>$LOG 2>&1; }
check data.look.plain seen 1
if [ -n "$META" ]; then check data.look.metadata seen 5; else skip data.look.metadata 'the kernel makes no disk of it'; fi
ours() { run 90 sh -c "doorbell-lab write '$(pcie "$1" "$2")' </tmp/random"; } # ADDRESS NSID
for drive in $MANY $CMB $HOT; do check data.write.$drive ours $drive 1; done
check data.write.block-4096 ours $MANY 2
perf data.perf.512 -r "$(pcie $HOT)" -q 8 -o 512 -w write -d 1000 -t 60 -c 0x1
perf data.perf.20480 -r "$TWO" -q 8 -o 20480 -w write -d 400 -t 60 -c 0x1
perf data.perf.1048576 -r "$(pcie $CMB)" -q 8 -o 1048576 -w write -d 16 -t 60 -c 0x1

# --- trouble

QUICK='-q 8 -o 4096 -w randread -d 100 -t 30 -c 0x1'
# Starts a long run on a device, does something to it, and looks how the run ends: by itself, in time, with a reason and results.
cut_short() { # NAME ADDRESS PATTERN PERF-OPTION… -- COMMAND…
  name=$1 device=$2 pattern=$3 options=''; shift 3
  while [ "$1" != -- ]; do options="$options $1"; shift; done
  shift
  echo "+ doorbell perf on $device$options during: $*" >$LOG
  # shellcheck disable=SC2086
  doorbell perf -r "$(pcie "$device" 1)" -q 32 -o 4096 -w randread -t 120 -c 0x1 $options >>$LOG 2>&1 & pid=$!
  wait_for 30 grep -q 'Launching workers' $LOG
  sleep 2
  if ended $pid; then fail "$name" "ended before: $*"; wait $pid; return; fi
  "$@" || echo "status $?: $*" >>$LOG
  if ! wait_for 40 ended $pid; then
    fail "$name" "still running 40 s after: $*"
    kill -9 $pid; wait $pid
    return
  fi
  wait $pid; status=$?
  if [ $status -ge 128 ] || grep -q 'panicked at' $LOG; then fail "$name" "crashed, status $status"
  elif [ $status = 0 ]; then fail "$name" "status 0 after: $*"
  elif ! total; then fail "$name" "no results after: $*"
  elif ! grep -qE "$pattern" $LOG; then fail "$name" "nothing said about /$pattern/"
  else ok "$name"; fi
}
memory_off() { run_quietly doorbell-lab memory-space-off $pid; }
run_quietly() { "/bin/$1" "$2" "$3" >>$LOG 2>&1; }
for mode in poll interrupt; do
  cut_short memory-off.$mode $MANY 'gone|removed|memory' --poll-mode $mode -- memory_off
  # shellcheck disable=SC2086
  perf memory-off.$mode.again -r "$ONE" $QUICK
done
pull() { monitor '{"execute": "device_del", "arguments": {"id": "hot"}}'; }
plug() { monitor '{"execute": "device_add", "arguments": {"driver": "nvme", "id": "hot", "bus": "bay", "serial": "LAB-HOT", "drive": "'"$1"'"}}'; } # DRIVE
absent() { [ ! -e $PCI/$HOT ]; }
for mode in poll interrupt; do
  cut_short pulled.$mode $HOT 'asks for it back|gone|removed' --poll-mode $mode -- pull
  check pulled.$mode.absent wait_for 20 absent
  check pulled.$mode.plugged wait_for 20 plug hot.$mode
  check pulled.$mode.again wait_for 20 doorbell setup bind $HOT
done
# shellcheck disable=SC2086
perf pulled.again -r "$(pcie $HOT)" $QUICK
unbind() { echo $HOT >$PCI/$HOT/driver/unbind; }
cut_short unbound $HOT 'asks for it back|gone|removed' -- unbind
check unbound.again setup bind $HOT

hold() { doorbell perf -r "$ONE" -q 4 -o 4096 -w randread -t 300 -c 0x1 >/tmp/held 2>&1 & holder=$!; wait_for 30 grep -q 'Launching workers' /tmp/held; }
hold
# shellcheck disable=SC2086
check_refused held 40 "process $holder " doorbell perf -r "$TWO" $QUICK
check_refused held.identify 40 "process $holder " doorbell identify -r "$(pcie $MANY)"
check_refused held.reset 20 "$MANY is in use and was not touched: process $holder" doorbell setup reset $MANY
check held.status setup status
said held.status.told "process $holder .* drives it"
kill -INT $holder
check held.ctrl-c wait $holder
hold
kill -9 $holder
wait $holder
# shellcheck disable=SC2086
perf killed.again -r "$ONE" $QUICK

# shellcheck disable=SC2086
{
  check_refused user.refused 40 "chown .*/dev/vfio/$(group $MANY)" su -s /bin/sh user -c "doorbell perf -r '$ONE' $QUICK"
  chown user /dev/vfio/"$(group $MANY)"
  perf_as_user() { as_user "doorbell perf -r '$ONE' $QUICK"; total; }
  check user.driven perf_as_user
  check_refused user.memlock 40 'RLIMIT_MEMLOCK.*ulimit -l' \
    su -s /bin/sh user -c "ulimit -l 1024; doorbell perf -r '$ONE' -q 128 -o 131072 -w randread -d 200 -t 30 -c 0x1"
  echo nvme >$PCI/$TWIN_B/driver_override
  echo $TWIN_B >$PCI/$TWIN_B/driver/unbind
  echo $TWIN_B >/sys/bus/pci/drivers_probe
  check_refused half-a-group 40 "$TWIN_B" doorbell perf -r "$(pcie $TWIN_A)" $QUICK
  check_refused not-bound 40 "setup bind" doorbell perf -r "$(pcie $TWIN_B)" $QUICK
}

# --- and back

check reset setup reset $MANY
said reset.done "$MANY: nvme has it"
check reset.namespaces wait_for 20 block_device $MANY 5
check reset.all setup reset --all
for drive in $DRIVES; do check reset.$drive wait_for 20 bound $drive nvme; done
wait_for 20 block_device $HOT 1
found() { cmp -n 33554432 /tmp/random "$(block_device "$1" "$2")" >$LOG 2>&1; }
check data.found.many found $MANY 1
check data.found.perf.512 written "$(block_device $HOT 1)" 1000 512
check data.found.perf.20480 written "$(block_device $MANY 2)" 400 20480
check data.found.perf.1048576 written "$(block_device $CMB 1)" 16 1048576

check kernel-log.quiet kernel_quiet
finish
