//! PCI functions in this process's hands, by VFIO: registers, configuration space, interrupts, and memory that a device reaches.
//!
//! A device is opened by way of its IOMMU group and container; that is all of VFIO that [`Device`] does not hide, so that another
//! way in can take its place. The IOMMU keeps a device to the memory it was given; where there is none, see [`Device::warning`].

mod abi;
mod container;
mod device;
mod group;
mod physical;

use std::sync::Arc;

pub use device::{BarInfo, Device};

/// Where devices see a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Bytes that follow each other for a device, too.
    page: u64,
    /// Where each page begins.
    pages: Arc<[u64]>,
}

impl Addresses {
    fn linear(start: u64, len: u64) -> Self {
        Self::paged(len, vec![start])
    }

    fn paged(page: u64, pages: Vec<u64>) -> Self {
        Self { page, pages: pages.into() }
    }

    /// The address of a byte of the region. What begins there goes on for a device up to the next multiple of [`Addresses::page`].
    ///
    /// # Panics
    /// For an offset behind the region.
    pub fn at(&self, offset: u64) -> u64 {
        self.pages[(offset / self.page) as usize] + offset % self.page
    }

    /// Bytes between the places where the addresses may jump: all of the region with an IOMMU, a huge page without.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// The address of byte 0 when the whole region follows it without a jump.
    pub fn linear_start(&self) -> Option<u64> {
        let first = *self.pages.first()?;
        let expected = (0..).map(|index| first.wrapping_add(self.page.wrapping_mul(index)));
        self.pages.iter().copied().zip(expected).all(|(page, expected)| page == expected).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_each_other_within_a_page_only() {
        let linear = Addresses::linear(0x7f00_0000_0000, 8192);
        assert_eq!((linear.at(5), linear.at(8191)), (0x7f00_0000_0005, 0x7f00_0000_1fff));
        assert_eq!((linear.page(), linear.linear_start()), (8192, Some(0x7f00_0000_0000)));
        let paged = Addresses::paged(0x20_0000, vec![0x4000_0000, 0x1000_0000]);
        assert_eq!((paged.at(0x1f_ffff), paged.at(0x20_0001)), (0x401f_ffff, 0x1000_0001));
        assert_eq!(paged.linear_start(), None);
        assert_eq!(Addresses::paged(0x20_0000, vec![0x4000_0000, 0x4020_0000]).linear_start(), Some(0x4000_0000));
    }
}
