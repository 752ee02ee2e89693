//! Groups of users, by name or number.

use nix::unistd::Group;

/// The number of the group `name`, which may be a number already; none where there is no such
/// group.
pub fn group_id(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
}
