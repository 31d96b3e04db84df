//! How a work request ended, and what kind it was.

/// Defines an open code with names.
macro_rules! code {
    ($(#[$meta:meta])* $name:ident { $($konst:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub u32);

        impl $name {
            $(
                #[doc = concat!(stringify!($value), ": ", $text, ".")]
                pub const $konst: Self = Self($value);
            )*

            /// In words.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "unknown",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} ({})", self.name(), self.0)
            }
        }
    };
}

code! {
    /// The status of a work completion (`ibv_wc_status`).
    Status {
        SUCCESS = 0, "success";
        LOC_LEN_ERR = 1, "local length error";
        LOC_QP_OP_ERR = 2, "local queue pair operation error";
        LOC_EEC_OP_ERR = 3, "local end-to-end context operation error";
        LOC_PROT_ERR = 4, "local protection error";
        WR_FLUSH_ERR = 5, "work request flushed";
        MW_BIND_ERR = 6, "memory window bind error";
        BAD_RESP_ERR = 7, "bad response";
        LOC_ACCESS_ERR = 8, "local access error";
        REM_INV_REQ_ERR = 9, "remote invalid request error";
        REM_ACCESS_ERR = 10, "remote access error";
        REM_OP_ERR = 11, "remote operation error";
        RETRY_EXC_ERR = 12, "transport retries exceeded: the peer does not answer";
        RNR_RETRY_EXC_ERR = 13, "receiver-not-ready retries exceeded: the peer posts no receives";
        LOC_RDD_VIOL_ERR = 14, "local reliable datagram domain violation";
        REM_INV_RD_REQ_ERR = 15, "remote invalid reliable datagram request";
        REM_ABORT_ERR = 16, "aborted by the peer";
        INV_EECN_ERR = 17, "invalid end-to-end context number";
        INV_EEC_STATE_ERR = 18, "invalid end-to-end context state";
        FATAL_ERR = 19, "fatal error of the device";
        RESP_TIMEOUT_ERR = 20, "response time-out";
        GENERAL_ERR = 21, "general error";
    }
}

code! {
    /// What a work completion completes (`ibv_wc_opcode`); of no meaning unless its status is success.
    Opcode {
        SEND = 0, "SEND";
        RDMA_WRITE = 1, "RDMA WRITE";
        RDMA_READ = 2, "RDMA READ";
        RECV = 128, "RECV";
        RECV_RDMA_WITH_IMM = 129, "RECV of an RDMA WRITE with immediate";
    }
}
