//! The table of `doorbell perf`'s options: names, value, group, state and help text. Read by
//! [`super::getopt`] to parse and by [`super::help`] to print; the meaning of a value is in
//! [`super::draft`].

/// The groups in which help shows the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What every run needs.
    Essential,
    /// How the load looks.
    Load,
    /// Local devices and memory.
    Pcie,
    /// TCP, TLS, authentication.
    Tcp,
    /// RDMA.
    Rdma,
    /// All fabrics.
    Fabrics,
    /// Logs and statistics.
    Logging,
    /// Options that only doorbell has.
    Own,
}

impl Group {
    /// All groups in the order of the help text.
    pub const ALL: [Self; 8] =
        [Self::Essential, Self::Load, Self::Pcie, Self::Tcp, Self::Rdma, Self::Fabrics, Self::Logging, Self::Own];

    /// The heading in the help text.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Essential => "Essential",
            Self::Load => "Load shape",
            Self::Pcie => "PCIe and environment",
            Self::Tcp => "TCP, TLS and authentication",
            Self::Rdma => "RDMA",
            Self::Fabrics => "Fabrics common",
            Self::Logging => "Logging and statistics",
            Self::Own => "Doorbell's own",
        }
    }
}

/// Whether an option can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Works.
    Built,
    /// Checked, then refused where it would change something: its part is not built yet.
    Later,
    /// Recognised and refused for good.
    Refused,
}

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which option it is.
    pub id: Id,
    /// The letter, if it has one.
    pub short: Option<char>,
    /// The long name, without dashes.
    pub long: &'static str,
    /// What help calls the value; `None` for a flag, `[=...]` for one that may be left out, where there is no letter.
    pub value: Option<&'static str>,
    /// Where help shows it.
    pub group: Group,
    /// Whether it can be used.
    pub state: State,
    /// The help text, one paragraph.
    pub help: &'static str,
}

impl Entry {
    /// Whether its value may be left out: only `--name=value` gives one then.
    pub fn is_optional(&self) -> bool {
        self.value.is_some_and(|value| value.starts_with('['))
    }

    /// How messages call the option: `-q (--io-depth)`, `--fua`.
    pub fn label(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter} (--{})", self.long),
            None => format!("--{}", self.long),
        }
    }
}

macro_rules! maybe {
    (-) => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

macro_rules! table {
    ($($group:ident { $($id:ident $short:tt $long:literal $value:tt $state:ident $help:literal)* })*) => {
        /// The name of an option in the code; the text is its help.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id { $($(#[doc = $help] $id,)*)* }

        /// Every option, in the order of the help text.
        pub const TABLE: &[Entry] = &[$($(Entry {
            id: Id::$id,
            short: maybe!($short),
            long: $long,
            value: maybe!($value),
            group: Group::$group,
            state: State::$state,
            help: $help,
        },)*)*];
    };
}

table! {
Essential {
    IoDepth 'q' "io-depth" "N" Built
        "I/Os to keep in flight for each pair of core and namespace, shared by its queue pairs (-P)."
    IoSize 'o' "io-size" "BYTES[:SHARE,...]" Built
        "Size of an I/O; a multiple of the block size of the namespace. A mix, as 4k:70,64k:20,1m:10: at most 16 sizes with their shares, told apart in the result."
    IoPattern 'w' "io-pattern" "WORD" Built
        "read, write, randread, randwrite, rw or randrw; or trim (Dataset Management, Deallocate), write_zeroes, verify or compare (with --fill), at random with rand before it; or append, to zones."
    Time 't' "time" "SECONDS" Built
        "How long to measure."
    RwMixRead 'M' "rwmixread" "PERCENT" Built
        "Share of reads for rw and randrw: 0 to 100."
    Transport 'r' "transport" "ID" Built
        "What to test, as 'key:value key:value ...' with trtype, adrfam, traddr, trsvcid, subnqn, ns, hostnqn, hostaddr, priority. Repeatable, at most 256. Without subnqn, every subsystem that discovery lists; without -r, every local PCIe device."
    CoreMask 'c' "core-mask" "MASK" Built
        "Cores to run on, one worker each: hexadecimal mask (0x5) or list ([0,2-4]). Default 0x1."
    Help 'h' "help" - Built
        "The essential options, and examples."
    HelpFull 'v' "help-full" - Built
        "All options."
}
Load {
    WarmupTime 'a' "warmup-time" "SECONDS" Built
        "Run this long before measuring. Not together with -d."
    NumberIos 'd' "number-ios" "N|N%" Built
        "Stop each pair of core and namespace after N I/Os, at least -q of them, or after N% of the namespace's size in I/Os. 0: no limit (default). Not together with -a."
    IoUnitSize 'O' "io-unit-size" "BYTES" Built
        "Present the buffer of an I/O as a list of pieces of this size, a multiple of 4. Default: one piece."
    NumQpairs 'P' "num-qpairs" "N" Built
        "I/O queue pairs for each pair of core and namespace; -q is spread over them. Default 1."
    NumUnusedQpairs 'U' "num-unused-qpairs" "N" Built
        "Queue pairs to connect for each pair of core and namespace and leave idle. Default 0."
    IoQueueSize - "io-queue-size" "N" Built
        "Entries of an I/O queue to ask for; the controller's limit and 32768 are the most. Default 65535."
    MaxCompletions 'C' "max-completion-per-poll" "N" Built
        "Most completions to take from a queue pair in one poll. Default 0: no limit."
    BufferAlignment 'A' "buffer-alignment" "BYTES" Built
        "Alignment of I/O buffers: a power of two, at least 64. Default 512."
    Zipf 'F' "zipf" "THETA" Built
        "Zipf-distributed offsets for the random patterns; any theta above 0 but 1. Default 0: uniform."
    UseEveryCore - "use-every-core" - Built
        "Every core tests every namespace."
    Fua - "fua" - Built
        "Set Force Unit Access on reads and writes."
    ContinueOnError 'Q' "continue-on-error" "N" Built
        "Keep going after I/O errors; print each kind of message only every N-th time."
    Metadata 'e' "metadata" "KEY=VALUE,..." Built
        "Protection information of protected namespaces: PRACT=1 lets the controller make it, else it is made here and looked at after reads; PRCHK=GUARD|REFTAG|APPTAG says what controller and host look at. A wrong block fails the run."
}
Pcie {
    AllowedPciAddr 'b' "allowed-pci-addr" "ADDRESS" Built
        "Use only this PCI device, as domain:bus:device.function. Repeatable, at most 128; without -r, all of them are tested."
    HugememSize 's' "hugemem-size" "MB" Built
        "Memory that must be free for the run, huge pages included, in megabytes; what is needed is taken in any case. For local devices and vfio-user."
    MemSingleSeg 'g' "mem-single-seg" - Built
        "Has no effect: each piece of memory that others reach is one file."
    ShmemGroup 'i' "shmem-grp-id" "N" Built
        "Has no effect: controllers are not shared between processes."
    EnableVmd 'V' "enable-vmd" - Refused
        "Intel VMD devices."
    DisableSqCmb 'D' "disable-sq-cmb" - Built
        "No submission queues in a controller's memory buffer, where they are put if it has one."
    EnableInterrupt 'E' "enable-interrupt" - Built
        "Wait for completions instead of polling for them; over TCP, sleep on the sockets."
    NoShstNotification 'N' "no-shst-notification" - Built
        "Leave a PCIe controller by clearing CC.EN, without a shutdown notification."
    IovaMode - "iova-mode" "va|pa" Built
        "Has no effect: devices use virtual addresses behind an IOMMU and physical ones without."
    NoHuge - "no-huge" - Built
        "Ordinary memory instead of huge pages; needs -s, excludes -g."
    EnforceNuma - "enforce-numa" - Built
        "Buffers on the device's NUMA node, or the core's for devices that have none; fail rather than take another's memory."
    VfioVfToken - "vfio-vf-token" "UUID" Built
        "Token for virtual functions under vfio-pci."
    EnvContext - "env-context" "TEXT" Refused
        "Arguments for DPDK."
    EnableUring 'R' "enable-uring" - Built
        "io_uring instead of libaio for files and kernel block devices: --engine io_uring."
}
Tcp {
    Hdgst 'H' "enable-tcp-hdgst" - Built
        "Ask for header digests (CRC-32C)."
    Ddgst 'I' "enable-tcp-ddgst" - Built
        "Ask for data digests (CRC-32C)."
    SockImpl 'S' "default-sock-impl" "NAME" Built
        "Kind of sockets: posix (default); ssl and uring are not built yet."
    EnableZcopy 'Z' "enable-zcopy" "NAME" Built
        "Zero-copy send for this kind of sockets. Repeatable."
    DisableZcopy 'z' "disable-zcopy" "NAME" Built
        "No zero-copy send for this kind of sockets (the default). Repeatable."
    ZerocopyThreshold - "zerocopy-threshold" "BYTES" Built
        "Send smaller writes without zero-copy; needs --zerocopy-threshold-sock-impl."
    ZerocopyThresholdSockImpl - "zerocopy-threshold-sock-impl" "NAME" Built
        "The kind of sockets the threshold is for."
    DisableKtls - "disable-ktls" - Later
        "No kernel TLS."
    EnableKtls - "enable-ktls" - Later
        "Kernel TLS."
    TlsVersion - "tls-version" "N" Later
        "0 (automatic), 11, 12 or 13; 13 whenever a PSK is given."
    PskPath - "psk-path" "PATH" Later
        "File with the TLS PSK in NVMe interchange form; absolute path, readable by its owner alone."
    PskIdentity - "psk-identity" "TEXT" Built
        "Has no effect: the identity is derived from the key and the NQNs."
    DhchapKey - "dhchap-key" "PATH" Later
        "File with the host's secret for DH-HMAC-CHAP."
    DhchapCtrlrKey - "dhchap-ctrlr-key" "PATH" Later
        "File with the controller's secret: authenticate both ways."
    DisableSqFlowControl - "disable-sq-flow-control" - Built
        "Ask in Connect to disable submission queue flow control."
}
Rdma {
    TransportTos - "transport-tos" "N" Built
        "Type of service, 0 to 255. Default 0."
    RdmaSrqSize - "rdma-srq-size" "N" Built
        "Entries of a receive queue that the queue pairs of a core and namespace share. Default 0: one for each."
}
Fabrics {
    KeepAlive 'k' "keepalive" "MS" Built
        "Keep alive timeout to ask for. Default 10000; 0: no keep alive."
}
Logging {
    SwLatency 'L' "enable-sw-latency-tracking" - Built
        "Latency percentiles; twice (-LL): the histogram too."
    SsdLatency 'l' "enable-ssd-latency-tracking" - Built
        "Have Intel's drives keep latencies, and show them at the end; look for OCP's health page on every drive."
    CpuUsage 'm' "cpu-usage" - Built
        "Show how busy the cores are, in the line of each second."
    TransportStats - "transport-stats" - Built
        "Show the transport's counters at the end."
    LogFlag 'T' "logflag" "NAME" Refused
        "Log flag of an SPDK component."
    LogLevel - "log-level" "LEVEL" Built
        "error (default), warning, notice, info or debug."
    TpointGroupMask 'y' "tpoint-group-mask" "TEXT" Refused
        "SPDK trace points."
}
Own {
    Seed - "seed" "N" Built
        "Start of the random sequences; the same seed repeats the same I/Os. Default: drawn and printed."
    Embedded - "embedded" "[=tcp|vfio-user]" Built
        "Start a RAM target inside this process and test it, over vfio-user (default) or tcp. -q, -o, -w and -t then default to 128, 4096, randread and 5."
    Timing - "timing" "HOW" Built
        "How latencies are taken. exact (default): the clock is read when an I/O is issued and when it is over. batch: once for all that a poll finds and once for all issued after it. sampled:N: exactly, for one I/O in N. off: not at all, and not with -L."
    PollMode - "poll-mode" "WORD" Built
        "What a core does while nothing completes: poll (default), interrupt (sleep, as -E) or adaptive (poll for 50 us, then sleep)."
    Json - "json" "FILE|-" Built
        "Write the whole result as JSON (docs/result-schema.md), whatever becomes of the run; to standard output with -, and the tables then go to standard error."
    Csv - "csv" "FILE|-" Built
        "Write the sums of the result as comma-separated values, a row for each core, namespace and operation."
    Hlog - "hlog" "FILE|-" Built
        "Write the latencies as an HdrHistogram log (V2), in nanoseconds: a line for the run, or for each slice with --interval."
    Interval - "interval" "TIME" Built
        "Keep a time series with a histogram for each slice of this length: 10ms or more, as 100ms, 1s or 1m. It is in --json, and in --ndjson while the run goes on."
    Ndjson - "ndjson" "FILE|-" Built
        "Write each slice of the time series as a line of JSON when it is over. Slices are of 1s without --interval."
    Strict - "strict" - Built
        "Exit with an error when the run finds that its own numbers do not hold: when a line of the audit at its end fails."
    Reconnect - "reconnect" "N" Built
        "Bring a lost controller back, with at most N attempts after each loss (1 to 1000), and go on. Default: a loss ends the run."
    Rate - "rate" "N[/worker]" Built
        "Issue N I/Os a second (10k, 1.5M), in total or by each worker, when they were planned to arrive and not when others are over; -q is the most in flight. Response times count from the plan. Not with -E."
    Arrival - "arrival" "WORD" Built
        "With --rate: fixed (default: at equal distances), poisson (independently of each other) or burst:N (N at once)."
    Range - "range" "FROM-TO" Built
        "Use this part of each namespace: in percent (10%-50%, rounded down to multiples of -o), bytes (1g-2g) or blocks (0lba-8klba). TO is not part of it."
    Fill - "fill" "WHAT" Built
        "What is written: zero, random, pattern:HEX (1 to 512 bytes, a power of two) or compress:N (of which compression leaves N %). Each buffer is filled once, before the run; in a mix, what a read has put there is written next. Default: a byte from 1 to 8, another in each buffer."
    FlushEvery - "flush-every" "N" Built
        "A flush after N writes of each pair of core and namespace, as one of the -q I/Os."
    Overwrite - "overwrite" "NAME" Built
        "Write there although a partition table, a file system or somebody who uses it was found, or it cannot be looked at: a run that writes is refused then, with the name to give here. What is named is not looked at. Repeatable."
    Verify - "verify" - Built
        "Stamp each block that is written with LBA, sequence number and CRC-32C, and check each block that is read: what this run has not written must stay as it is first seen. Takes 8 bytes a block. A block that is wrong is told, and the exit status is 1."
    Coverage - "coverage" "WORD" Built
        "For the random patterns: random (default: each position may come again at any time) or full (each position exactly once a pass, in another order each time; what is left at the end, shorter than -o, is not used)."
    Engine - "engine" "WORD" Built
        "How the files and devices named on the command line are tested: libaio (default), io_uring (as -R), or io_uring_cmd: NVMe commands that the kernel's driver passes through, for /dev/ng*, and the default there."
    IoPoll - "iopoll" - Built
        "With io_uring: poll the device for completions instead of waiting for its interrupts. Needs queues for that in the driver, and direct I/O."
    SqPoll - "sqpoll" - Built
        "With io_uring: a thread of the kernel's looks for submissions, on another core, so that none needs a system call."
    Unregistered - "unregistered" - Built
        "With io_uring: do not register file and buffers beforehand, which pins the buffers."
    Buffered - "buffered" - Built
        "Test files and block devices through the page cache. Default: past it (O_DIRECT)."
    Timeout - "timeout" "MS" Built
        "Abort an I/O that takes longer, counted from when it is issued; when it is not back after as long again, give its queue up. Default: I/Os may take any time."
}
}
