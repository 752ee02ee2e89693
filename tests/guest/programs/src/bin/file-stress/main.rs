//! Stress for a file system, in the manner of fsx: `file-stress run|verify DIRECTORY BLOCK_SIZE
//! SEED OPERATIONS`.
//!
//! `run` starts threads with files of their own. Each does OPERATIONS random ones: it reads,
//! writes, truncates, punches holes, syncs and replaces, through the page cache, by direct I/O in
//! blocks of `BLOCK_SIZE` bytes and through mappings, and compares what it reads with a model in
//! memory. `verify` computes the models of the same arguments again and reads all the files: after
//! a mount, or with the page cache dropped, that is what the disk has.

mod model;
mod operation;
mod plan;
mod stressed_file;

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use guest_programs::{arguments, number};
use plan::Plan;
use stressed_file::StressedFile;

const THREADS: u64 = 4;

fn main() -> Result<(), String> {
    let [action, directory, block_size, seed, operations] =
        arguments("file-stress run|verify DIRECTORY BLOCK_SIZE SEED OPERATIONS")?;
    let work = match action.as_str() {
        "run" => run,
        "verify" => verify,
        other => return Err(format!("{other}: neither run nor verify")),
    };
    let (block_size, seed, operations): (_, u64, _) =
        (number(&block_size)?, number(&seed)?, number(&operations)?);
    let directory = Path::new(&directory);
    thread::scope(|scope| {
        let spawn = |index: u64| {
            let plan = Plan::new(seed * THREADS + index, block_size);
            scope.spawn(move || work(&directory.join(index.to_string()), plan, operations))
        };
        let threads: Vec<_> = (0..THREADS).map(spawn).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })
}

/// Makes the files of one thread in a new `directory` and carries out its operations on them.
fn run(directory: &Path, mut plan: Plan, operations: u32) -> Result<(), String> {
    fs::create_dir(directory).map_err(|error| failed(directory, "mkdir", &error))?;
    let create = |(file, _)| {
        let path = file_path(directory, file);
        StressedFile::create(&path).map_err(|error| failed(&path, "create", &error))
    };
    let mut files = plan.models().iter().enumerate().map(create).collect::<Result<Vec<_>, _>>()?;
    for step in 0..operations {
        let (file, operation) = plan.advance();
        files[file].execute(&operation, &plan.models()[file]).map_err(|error| {
            failed(&file_path(directory, file), &format!("operation {step}, {operation:?}"), &error)
        })?;
    }
    for (index, file) in files.iter().enumerate() {
        file.sync().map_err(|error| failed(&file_path(directory, index), "fsync", &error))?;
    }
    Ok(())
}

/// Reads the files of one thread, as the same arguments of [`run`] left them.
fn verify(directory: &Path, mut plan: Plan, operations: u32) -> Result<(), String> {
    for _ in 0..operations {
        plan.advance();
    }
    for (file, model) in plan.models().iter().enumerate() {
        let path = file_path(directory, file);
        let result = StressedFile::open(&path).and_then(|file| file.verify(model));
        result.map_err(|error| failed(&path, "verify", &error))?;
    }
    Ok(())
}

fn file_path(directory: &Path, file: usize) -> PathBuf {
    directory.join(file.to_string())
}

fn failed(path: &Path, what: &str, error: &io::Error) -> String {
    format!("{}: {what}: {error}", path.display())
}
