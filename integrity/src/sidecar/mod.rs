//! The sidecar: PI for an image that has no room of its own for it, in a file beside it.
//!
//! ```text
//! 0              4096                         4096 + i * tuple size
//! +--------------+---------+---------+--     -+---------+--
//! | header       | tuple 0 | tuple 1 |   ...  | tuple i | ...     one tuple per interval of the image
//! +--------------+---------+---------+--     -+---------+--
//! ```
//!
//! The image itself stays raw. [`Header`] names the image and the profile; [`generate`] and [`verify`] are the rules
//! for tuples, to which a sidecar adds one: a tuple of zero bytes says that its interval was never written, and the
//! interval must then read as zeros. So the tuple array can be sparse, and a tuple that was lost is noticed.
//!
//! This module knows bytes, not files.

mod header;
mod tuples;

pub use header::{HEADER_SIZE, Header, HeaderError, State, VERSION};
pub use tuples::{
    APPLICATION_TAG, Mismatch, Mismatches, SidecarError, generate, generate_sparse, is_unwritten, mismatches,
    verify,
};
