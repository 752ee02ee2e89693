//! The section SEE ALSO: the pages of the commands beside this one, and those of other programs.

use roff::{Inline, Roff, bold, roman};

use super::Place;

const OTHERS: &[(&str, &str)] = &[("qemu-system-x86_64", "1"), ("systemd.socket", "5"), ("virsh", "1")];
const DOCUMENTS: &str = "The documents, in /usr/share/doc/stableblk: README.md, docs/control.md, \
                         docs/backup.md, docs/migration.md, docs/limits.md, docs/metrics.md, docs/stability.md";

/// Writes the section.
pub(super) fn write(roff: &mut Roff, place: &Place<'_>) {
    let mut pages: Vec<(String, &str)> = Vec::new();
    if let Some(above) = place.above {
        pages.push((above.page().to_owned(), "1"));
        pages.extend(above.below().map(|command| (format!("{}-{}", above.page(), command.get_name()), "1")));
    }
    pages.extend(place.below().map(|command| (format!("{}-{}", place.page(), command.get_name()), "1")));
    if place.above.is_none() {
        pages.extend(OTHERS.iter().map(|(page, section)| ((*page).to_owned(), *section)));
    }
    pages.retain(|(page, _)| page != place.page());
    roff.control("SH", ["SEE ALSO"]);
    let last = pages.len() - 1;
    let names: Vec<Inline> = pages
        .iter()
        .enumerate()
        .flat_map(|(i, (page, section))| {
            let end = if i == last { "" } else { ", " };
            [bold(page.as_str()), roman(format!("({section}){end}"))]
        })
        .collect();
    roff.text(names);
    roff.control("PP", []);
    roff.text([roman(DOCUMENTS)]);
}
