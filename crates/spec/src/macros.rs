//! Macros every module of this crate uses: open codes with names, and layout checks at
//! compile time.

/// Defines an open newtype over an integer: a constant and a name for each known code.
macro_rules! open_code {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($konst:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                #[doc = concat!($text, ".")]
                pub const $konst: Self = Self($value);
            )*

            /// Every code this crate names, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The specification's name of the code, or `"Unknown"`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "Unknown",
                }
            }
        }

        /// Writes the name and the code, as `Read (02h)`.
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{} ({:02X}h)", self.name(), self.0)
            }
        }
    };
}

/// Fails the build unless the structure has the size and the field offsets given.
macro_rules! layout {
    ($name:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            assert!(core::mem::align_of::<$name>() == 1);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}
