# shellcheck shell=sh
#: machine drives
#: modules nvme
#: programs nvme
#: seconds 300
# QEMU's zoned drive, 16 zones of 4 MiB of which 3 can be written, at most 4 open and 6 active: our driver writes it, and the kernel's
# reports what its zones are.
. /lab/guest.sh
. /lab/drives.sh

need drive wait_for 30 bound $MANY nvme
ZONED=$(pcie $MANY 3)
need bind setup bind $MANY

check identify run 40 doorbell identify -r "$ZONED"
said identify.command-set 'command set: +Zoned Namespace Command Set'
said identify.zones 'count: +16'
said identify.size 'blocks each: +8192'
said identify.capacity 'writable blocks in all: +98304'
said identify.open 'most open: +4'
said identify.active 'most active: +6'

# 48 writes of 64 KiB fill a zone.
zoned() { zoned=$1; shift; perf "$zoned" -t 60 -r "$ZONED" -c 0x1 "$@"; }
zoned first -q 1 -o 64k -w write -d 60
said first.no-reset ': 0 reset, 0 finished, 0 commands failed'

# What the kernel sees: one zone full, one with 12 writes of 128 blocks.
need reset setup reset $MANY
need kernel wait_for 30 bound $MANY nvme
kernel_zones() { DEVICE=$(block_device $MANY 3) && run 30 nvme zns report-zones "$DEVICE"; }
check report wait_for 30 kernel_zones
said report.full 'SLBA: 0x0 .*State: 0xe0'
said report.open 'SLBA: 0x2000 .*WP: 0x2600 .*State: 0x[24]0'
said report.empty 'SLBA: 0x4000 .*WP: 0x4000 .*State: 0x10'
need bind.again setup bind $MANY

zoned goes-on -q 8 -o 64k -w write -d 1000
said goes-on.depth '4 of 8 I/Os \(-q\) are kept in flight'
said goes-on.resets 'Zones of .*: [1-9][0-9]* reset, 0 finished, 0 commands failed'
zoned append -q 16 -o 16k -w append -d 4000
said append.resets 'Zones of .*: [1-9][0-9]* reset, 0 finished, 0 commands failed'
# 38 writes of 80 KiB, and less than one more.
zoned rest -q 4 -o 80k -w write -d 300
said rest.finished 'Zones of .*: [1-9][0-9]* reset, [1-9][0-9]* finished, 0 commands failed'
zoned cores -q 4 -o 64k -w write -d 400 -c 0x3
check cores.rows [ "$(rows)" = 2 ]
zoned mix -q 4 -o 64k -w rw -M 50 -d 400
zoned read -q 16 -o 4k -w randread -d 400
for pattern in randwrite 'randrw -M 50'; do
  # shellcheck disable=SC2086
  check_refused refused."${pattern%% *}" 40 'written in order' doorbell perf -r "$ZONED" -q 4 -o 64k -w $pattern -d 10 -t 30 -c 0x1
done
check_refused refused.queues 40 'use fewer' doorbell perf -r "$ZONED" -q 8 -o 64k -w write -P 5 -d 10 -t 30 -c 0x1
check_refused refused.append 40 'it is none' doorbell perf -r "$(pcie $MANY 1)" -q 4 -o 64k -w append -d 10 -t 30 -c 0x1

check kernel-log.quiet kernel_quiet
finish
