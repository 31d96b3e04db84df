//! libibverbs and librdmacm, loaded at first use: nothing of them is needed to build, or to run what is not RDMA.

use std::{
    ffi::{CStr, CString, c_int, c_uint, c_void},
    mem,
    sync::OnceLock,
};

use libc::sockaddr;

use super::types::*;
use crate::LoadError;

/// Declares the functions that are used, as fields, and how to find each.
macro_rules! functions {
    ($($library:ident { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* })*) => {
        /// The functions of both libraries.
        pub struct Library {
            $($(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*)*
            /// Since rdma-core 28: registers with flags that a device may ignore.
            pub(crate) ibv_reg_mr_iova2: Option<RegMrIova2>,
        }

        impl Library {
            fn from($($library: &Loaded<'_>),*) -> Result<Self, LoadError> {
                Ok(Self {
                    $($($name: {
                        let symbol = $library.symbol(concat!(stringify!($name), "\0"))?;
                        // SAFETY: the library has had this function with this signature since its first stable version.
                        unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol) }
                    },)*)*
                    ibv_reg_mr_iova2: None,
                })
            }
        }
    };
}

type RegMrIova2 = unsafe extern "C" fn(*mut ibv_pd, *mut c_void, usize, u64, c_uint) -> *mut ibv_mr;

functions! {
    verbs {
        ibv_query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        ibv_alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
        ibv_dealloc_pd: fn(*mut ibv_pd) -> c_int;
        ibv_reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        ibv_dereg_mr: fn(*mut ibv_mr) -> c_int;
        ibv_create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
        ibv_destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
        ibv_create_cq: fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
        ibv_destroy_cq: fn(*mut ibv_cq) -> c_int;
        ibv_get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        ibv_ack_cq_events: fn(*mut ibv_cq, c_uint);
        ibv_create_srq: fn(*mut ibv_pd, *mut ibv_srq_init_attr) -> *mut ibv_srq;
        ibv_destroy_srq: fn(*mut ibv_srq) -> c_int;
        ibv_modify_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    }
    manager {
        rdma_create_event_channel: fn() -> *mut rdma_event_channel;
        rdma_destroy_event_channel: fn(*mut rdma_event_channel);
        rdma_create_id: fn(*mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, c_uint) -> c_int;
        rdma_destroy_id: fn(*mut rdma_cm_id) -> c_int;
        rdma_migrate_id: fn(*mut rdma_cm_id, *mut rdma_event_channel) -> c_int;
        rdma_set_option: fn(*mut rdma_cm_id, c_int, c_int, *mut c_void, usize) -> c_int;
        rdma_bind_addr: fn(*mut rdma_cm_id, *mut sockaddr) -> c_int;
        rdma_resolve_addr: fn(*mut rdma_cm_id, *mut sockaddr, *mut sockaddr, c_int) -> c_int;
        rdma_resolve_route: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_create_qp: fn(*mut rdma_cm_id, *mut ibv_pd, *mut ibv_qp_init_attr) -> c_int;
        rdma_destroy_qp: fn(*mut rdma_cm_id);
        rdma_connect: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_listen: fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_accept: fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_reject: fn(*mut rdma_cm_id, *const c_void, u8) -> c_int;
        rdma_disconnect: fn(*mut rdma_cm_id) -> c_int;
        rdma_get_cm_event: fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
        rdma_ack_cm_event: fn(*mut rdma_cm_event) -> c_int;
    }
}

impl Library {
    /// The libraries of this machine, loaded by the first call and never unloaded.
    ///
    /// # Errors
    /// Which of the two is missing or too old, and the packages that have it; the same answer however often it is asked.
    pub fn load() -> Result<&'static Self, LoadError> {
        static LIBRARY: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LIBRARY.get_or_init(|| Self::open("libibverbs.so.1", "librdmacm.so.1")).as_ref().map_err(Clone::clone)
    }

    /// The libraries under other names.
    pub(crate) fn open(verbs: &str, manager: &str) -> Result<Self, LoadError> {
        let verbs = Loaded::open(verbs)?;
        let mut library = Self::from(&verbs, &Loaded::open(manager)?)?;
        library.ibv_reg_mr_iova2 = verbs.symbol("ibv_reg_mr_iova2\0").ok().map(|symbol| {
            // SAFETY: as for the others.
            unsafe { mem::transmute::<*mut c_void, RegMrIova2>(symbol) }
        });
        Ok(library)
    }
}

/// A library in this process, for good.
struct Loaded<'a> {
    name: &'a str,
    handle: *mut c_void,
}

impl<'a> Loaded<'a> {
    fn open(name: &'a str) -> Result<Self, LoadError> {
        let path =
            CString::new(name).map_err(|_| LoadError { library: name.into(), reason: "a name with a NUL".into() })?;
        // SAFETY: the path is a C string. What the library runs as it is loaded is as sound as the library.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(failed(name)) } else { Ok(Self { name, handle }) }
    }

    /// The address of a function; `name` ends with a NUL.
    fn symbol(&self, name: &str) -> Result<*mut c_void, LoadError> {
        debug_assert!(name.ends_with('\0'));
        // SAFETY: the handle is open and the name ends with a NUL.
        let symbol = unsafe { libc::dlsym(self.handle, name.as_ptr().cast()) };
        if symbol.is_null() { Err(failed(self.name)) } else { Ok(symbol) }
    }
}

/// What the loader says about the call that has just failed.
fn failed(library: &str) -> LoadError {
    // SAFETY: the text, if there is one, stays until this thread's next call of the loader.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() { "no reason given".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    LoadError { library: library.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_the_packages_that_have_it() {
        let error = Library::open("libibverbs-of-nowhere.so.1", "librdmacm.so.1").err().unwrap().to_string();
        assert!(error.contains("libibverbs-of-nowhere.so.1: cannot open shared object file"), "{error}");
        assert!(error.contains("apt-get install librdmacm1 libibverbs1 ibverbs-providers"), "{error}");
        assert!(error.contains("dnf install librdmacm libibverbs"), "{error}");
    }

    #[test]
    fn a_library_without_the_functions_is_named_with_the_first_that_is_missing() {
        let error = Library::open("libc.so.6", "libc.so.6").err().unwrap().to_string();
        assert!(error.contains("libc.so.6") && error.contains("ibv_query_device"), "{error}");
    }
}
