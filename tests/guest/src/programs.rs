//! The programs of `tests/guest/programs`, built when first needed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{GuestError, output_of, read};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs' names and contents.
pub(crate) fn build() -> Result<Vec<(String, Vec<u8>)>, GuestError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let target_dir = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || source.join("../../../target"),
        |given| env::current_dir().unwrap_or_default().join(given),
    );
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target_dir)
        // cargo reads .cargo/config.toml from where it stands; flags in the environment would
        // replace those in that file
        .current_dir(&source)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    output_of(&mut cargo, "cargo build of the guest's programs")?;

    let built = target_dir.join(TARGET).join("release");
    names(&source.join("src/bin"))?
        .into_iter()
        .map(|name| read(&built.join(&name)).map(|contents| (name, contents)))
        .collect()
}

fn names(sources: &Path) -> Result<Vec<String>, GuestError> {
    let list = fs::read_dir(sources).map_err(GuestError::file(sources))?;
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(list.flatten().filter_map(|entry| stem(entry.path())).collect())
}
