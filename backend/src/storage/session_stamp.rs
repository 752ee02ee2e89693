//! The session stamp: the extended attribute of an image that says in which session of its sidecar
//! it was written last.
//!
//! Its text is the sidecar's UUID, the epoch of the session, and `open` or `closed`.

use std::fs::File;
use std::io;

use integrity::sidecar::{Stamp, WriteSession};
use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use uuid::Uuid;

const ATTRIBUTE: &str = "user.stableblk.session";
/// Longer than any stamp.
const LEN_MAX: usize = 128;

/// The stamp that `image` carries. `None` where it carries none, or none that can be read: then its
/// session is unknown.
pub(crate) fn read(image: &File) -> Option<Stamp> {
    let mut text = [0; LEN_MAX];
    let stamp = match fgetxattr(image, ATTRIBUTE, &mut text[..]) {
        Ok(len) => str::from_utf8(&text[..len]).ok().and_then(parse),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => return None,
        Err(_) => None,
    };
    if stamp.is_none() {
        tracing::warn!("the image's attribute {ATTRIBUTE} cannot be read: its session is not compared");
    }
    stamp
}

/// Writes `stamp` to `image`. Where that fails, the image carries none afterwards. The stamp is
/// durable after the next sync of the image.
pub(crate) fn write(image: &File, stamp: &Stamp) -> io::Result<()> {
    match fsetxattr(image, ATTRIBUTE, text(stamp).as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(reason) => match fremovexattr(image, ATTRIBUTE) {
            // an older stamp would have the image refused after a crash
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {
                tracing::debug!("the image cannot carry {ATTRIBUTE}: {reason}");
                Ok(())
            }
            Err(_) => Err(reason.into()),
        },
    }
}

fn text(stamp: &Stamp) -> String {
    let WriteSession { epoch, is_open } = stamp.session;
    format!("{} {epoch} {}", Uuid::from_bytes(stamp.uuid), if is_open { "open" } else { "closed" })
}

fn parse(text: &str) -> Option<Stamp> {
    let mut words = text.split(' ');
    let uuid = Uuid::try_parse(words.next()?).ok()?.into_bytes();
    let epoch = words.next()?.parse().ok()?;
    let is_open = match words.next()? {
        "open" => true,
        "closed" => false,
        _ => return None,
    };
    words.next().is_none().then_some(Stamp { uuid, session: WriteSession { epoch, is_open } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(is_open: bool) -> Stamp {
        Stamp { uuid: [0xAB; 16], session: WriteSession { epoch: 7, is_open } }
    }

    #[test]
    fn its_text_is_as_documented_and_is_read_back() {
        assert_eq!(text(&stamp(true)), "abababab-abab-abab-abab-abababababab 7 open");
        for is_open in [true, false] {
            assert_eq!(parse(&text(&stamp(is_open))), Some(stamp(is_open)));
        }
    }

    #[test]
    fn other_texts_are_no_stamp() {
        let uuid = Uuid::from_bytes([0xAB; 16]);
        for text in
            ["", "7 open", &format!("{uuid} 7"), &format!("{uuid} -1 open"), &format!("{uuid} 7 open x")]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
