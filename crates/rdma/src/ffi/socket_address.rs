//! Socket addresses as C has them.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use libc::{sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage};

/// An address in a place big enough for all of them.
pub struct Storage(sockaddr_storage);

impl Storage {
    pub fn new(address: SocketAddr) -> Self {
        // SAFETY: all zeros are a valid storage, of no family.
        let mut storage: sockaddr_storage = unsafe { mem::zeroed() };
        match address {
            SocketAddr::V4(v4) => {
                let place = (&raw mut storage).cast::<sockaddr_in>();
                // SAFETY: the storage is as large and as aligned as every kind of address.
                unsafe {
                    (*place).sin_family = libc::AF_INET as sa_family_t;
                    (*place).sin_port = v4.port().to_be();
                    (*place).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                }
            }
            SocketAddr::V6(v6) => {
                let place = (&raw mut storage).cast::<sockaddr_in6>();
                // SAFETY: as above.
                unsafe {
                    (*place).sin6_family = libc::AF_INET6 as sa_family_t;
                    (*place).sin6_port = v6.port().to_be();
                    (*place).sin6_flowinfo = v6.flowinfo();
                    (*place).sin6_addr.s6_addr = v6.ip().octets();
                    (*place).sin6_scope_id = v6.scope_id();
                }
            }
        }
        Self(storage)
    }

    /// For a call that takes the address of an address.
    pub fn as_mut_ptr(&mut self) -> *mut sockaddr {
        (&raw mut self.0).cast()
    }
}

/// The address in a storage; none for a family that is not IP.
pub fn read(storage: &sockaddr_storage) -> Option<SocketAddr> {
    let place = &raw const *storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is as large and as aligned as every kind of address, and all bytes are valid in it.
            let v4 = unsafe { &*place.cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*place.cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        for text in ["192.168.159.142:4420", "0.0.0.0:0", "[fe80::5054:ff:fe12:3456%3]:4420", "[::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read(&Storage::new(address).0), Some(address), "{text}");
        }
    }
}
