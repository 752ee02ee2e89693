//! `VIRTIO_BLK_T_*`, the first field of a request header (virtio 1.2, 5.2.6).

/// Read.
pub const IN: u32 = 0;
/// Write.
pub const OUT: u32 = 1;
/// Make completed writes durable.
pub const FLUSH: u32 = 4;
/// Get the device ID string.
pub const GET_ID: u32 = 8;
/// The contents of ranges are no longer needed.
pub const DISCARD: u32 = 11;
/// Fill ranges with zeros.
pub const WRITE_ZEROES: u32 = 13;
