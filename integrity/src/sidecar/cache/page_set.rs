//! A set of page numbers in order, of which many may be neighbours.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages of a group, one bit each.
const GROUP: u64 = u64::BITS as u64;

#[derive(Debug, Default)]
pub(super) struct PageSet {
    /// By the number of the group; none is empty.
    groups: BTreeMap<u64, u64>,
}

impl PageSet {
    pub(super) fn insert(&mut self, page: u64) {
        *self.groups.entry(page / GROUP).or_default() |= 1 << (page % GROUP);
    }

    pub(super) fn remove(&mut self, page: u64) {
        let group = page / GROUP;
        if let Some(bits) = self.groups.get_mut(&group) {
            *bits &= !(1 << (page % GROUP));
            if *bits == 0 {
                self.groups.remove(&group);
            }
        }
    }

    /// The pages of the set that lie in `pages`. Their number, not that of `pages`, is the cost.
    pub(super) fn within(&self, pages: &Range<u64>) -> Vec<u64> {
        let groups = self.groups.range(pages.start / GROUP..pages.end.div_ceil(GROUP));
        let numbers = groups.flat_map(|(group, bits)| {
            (0..GROUP).filter(move |bit| bits & 1 << bit != 0).map(move |bit| group * GROUP + bit)
        });
        numbers.filter(|page| pages.contains(page)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_those_of_a_plain_set(steps in vec((0_u64..400, any::<bool>()), 0..200), from in 0_u64..400, len in 0_u64..400) {
            let (mut set, mut plain) = (PageSet::default(), BTreeSet::new());
            for (page, is_put) in steps {
                if is_put {
                    set.insert(page);
                    plain.insert(page);
                } else {
                    set.remove(page);
                    plain.remove(&page);
                }
            }
            let pages = from..from + len;
            prop_assert_eq!(set.within(&pages), plain.range(pages).copied().collect::<Vec<_>>());
        }
    }
}
