//! The structures of [`super::types`] beside those of the installed headers: a small C program prints sizes and offsets.

use std::{env, fmt::Write, fs, mem::offset_of, path::Path, process::Command};

use super::types::*;

/// For each structure its size and the offset of each field named, as Rust has them and as an expression in C.
macro_rules! layouts {
    ($($name:ident { $($field:ident $(= $c_field:literal)?),* $(,)? })*) => {
        /// (what, its value here, the same in C)
        fn layouts() -> Vec<(String, usize, String)> {
            let mut all = Vec::new();
            $(
                let c_name = concat!("struct ", stringify!($name));
                all.push((format!("sizeof {c_name}"), size_of::<$name>(), format!("sizeof({c_name})")));
                $({
                    #[allow(unused_mut, unused_assignments)]
                    let mut c_field = stringify!($field);
                    $(c_field = $c_field;)?
                    all.push((format!("{c_name} {c_field}"), offset_of!($name, $field), format!("offsetof({c_name}, {c_field})")));
                })*
            )*
            all
        }
    };
}

layouts! {
    ibv_device { node_type, transport_type, name, dev_name, dev_path, ibdev_path }
    ibv_context_ops { poll_cq, req_notify_cq, post_srq_recv, post_send, post_recv }
    ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat }
    ibv_device_attr {
        fw_ver, max_mr_size, vendor_id, max_qp_wr, max_sge, max_sge_rd, max_cqe, max_qp_rd_atom, max_qp_init_rd_atom, max_srq_wr,
        max_srq_sge, phys_port_cnt,
    }
    ibv_pd { context, handle }
    ibv_mr { context, pd, addr, length, handle, lkey, rkey }
    ibv_comp_channel { context, fd, refcnt }
    ibv_cq { context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed, async_events_completed }
    ibv_wc {
        wr_id, status, opcode, vendor_err, byte_len, invalidated_rkey, qp_num, src_qp, wc_flags, pkey_index, slid, sl, dlid_path_bits,
    }
    ibv_srq { context, pd, handle, mutex, cond, events_completed }
    ibv_srq_attr { max_wr, max_sge, srq_limit }
    ibv_srq_init_attr { srq_context, attr }
    ibv_qp { context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type, mutex, cond, events_completed }
    ibv_qp_cap { max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data }
    ibv_qp_init_attr { qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all }
    ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
    ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
    ibv_qp_attr { qp_state, cap, ah_attr, alt_ah_attr, pkey_index, timeout, alt_timeout, rate_limit }
    ibv_sge { addr, length, lkey }
    ibv_send_wr {
        wr_id, next, sg_list, num_sge, opcode, send_flags, invalidate_rkey, remote_addr = "wr.rdma.remote_addr", rkey = "wr.rdma.rkey",
    }
    ibv_recv_wr { wr_id, next, sg_list, num_sge }
    rdma_event_channel { fd }
    rdma_addr { src_storage, dst_storage, ibaddr = "addr" }
    rdma_route { addr, path_rec, num_paths }
    rdma_cm_id {
        verbs, channel, context, qp, route, ps, port_num, event, send_cq_channel, send_cq, recv_cq_channel, recv_cq, srq, pd, qp_type,
    }
    rdma_conn_param {
        private_data, private_data_len, responder_resources, initiator_depth, flow_control, retry_count, rnr_retry_count, srq, qp_num,
    }
    rdma_cm_event { id, listen_id, event, status, conn = "param.conn" }
}

/// The constants, under the headers' names.
macro_rules! constants {
    ($($name:ident)*) => {
        fn constants() -> Vec<(String, usize, String)> {
            vec![$((stringify!($name).to_owned(), $name as usize, format!("(size_t)({})", stringify!($name)))),*]
        }
    };
}

constants! {
    IBV_TRANSPORT_IWARP IBV_ACCESS_LOCAL_WRITE IBV_ACCESS_REMOTE_WRITE IBV_ACCESS_REMOTE_READ IBV_ACCESS_RELAXED_ORDERING
    IBV_WC_WITH_INV IBV_QPT_RC IBV_QP_STATE IBV_QP_MIN_RNR_TIMER IBV_QPS_RTS IBV_QPS_ERR IBV_WR_RDMA_WRITE IBV_WR_SEND
    IBV_WR_RDMA_READ IBV_WR_SEND_WITH_INV
    IBV_SEND_FENCE IBV_SEND_SIGNALED IBV_SEND_SOLICITED IBV_SEND_INLINE RDMA_PS_TCP RDMA_CM_EVENT_CONNECT_REQUEST RDMA_OPTION_ID
    RDMA_OPTION_ID_TOS RDMA_OPTION_ID_REUSEADDR RDMA_OPTION_ID_AFONLY RDMA_OPTION_ID_ACK_TIMEOUT
}

#[test]
fn structures_and_constants_are_those_of_the_installed_headers() {
    let headers = ["/usr/include/infiniband/verbs.h", "/usr/include/rdma/rdma_cma.h"];
    if !headers.iter().all(|header| Path::new(header).exists()) {
        println!("skipped: no headers here; Debian has them in libibverbs-dev and librdmacm-dev");
        return;
    }
    let all: Vec<_> = layouts().into_iter().chain(constants()).collect();
    let mut program =
        String::from("#include <stddef.h>\n#include <stdio.h>\n#include <rdma/rdma_cma.h>\nint main(void) {\n");
    for (_, _, in_c) in &all {
        writeln!(program, "  printf(\"%zu\\n\", {in_c});").unwrap();
    }
    program.push_str("  return 0;\n}\n");
    let folder = env::temp_dir().join(format!("doorbell-layout-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (source, binary) = (folder.join("layout.c"), folder.join("layout"));
    fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").args(["-o".as_ref(), binary.as_os_str(), source.as_os_str()]).status().unwrap();
    assert!(compiled.success());
    let printed = Command::new(&binary).output().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let theirs: Vec<usize> =
        String::from_utf8(printed.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), all.len());
    for ((what, ours, _), theirs) in all.iter().zip(theirs) {
        assert_eq!(*ours, theirs, "{what}");
    }
}
