//! Measures how fast an artifact is hashed (SHA-256 and piece SHA-1s in one pass), beside `sha256sum` (SHA-256 only).
//!
//! ```sh
//! cargo run --release --example hash_rate -- [FILE] [ROUNDS]
//! ```
//!
//! Without a file it makes one of 2 GiB in the temporary directory and removes it. Rounds alternate, so that whatever else the
//! machine does hits both; a first, untimed pass brings the file into the page cache.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use fleetdrop::artifact::{hash_artifact, sha256_file};

const MADE_SIZE: u64 = 2 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let given = arguments.next().map(PathBuf::from);
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.to_string_lossy().parse())?;
    let path = given.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("hash_rate.{}", std::process::id())));
    let result = if given.is_some() { Ok(()) } else { make(&path) }.and_then(|()| measure(&path, rounds.max(1)));
    if given.is_none() {
        std::fs::remove_file(&path)?;
    }
    result
}

fn make(path: &Path) -> Result<(), Box<dyn Error>> {
    println!("making {} ({MADE_SIZE} bytes)", path.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = fastrand::Rng::with_seed(1);
    let mut block = vec![0; 1 << 20];
    for _ in 0..MADE_SIZE >> 20 {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    Ok(file.flush()?)
}

fn measure(path: &Path, rounds: usize) -> Result<(), Box<dyn Error>> {
    let size = std::fs::metadata(path)?.len();
    let digest = sha256_file(path, &|_| {})?;
    let (mut whole, mut single, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let start = Instant::now();
        let hashed = hash_artifact(path, |_| 4 << 20, None, &|_| {})?;
        whole.push(start.elapsed().as_secs_f64());

        let start = Instant::now();
        sha256_file(path, &|_| {})?;
        single.push(start.elapsed().as_secs_f64());

        let start = Instant::now();
        let output = Command::new("sha256sum").arg(path).output()?;
        theirs.push(start.elapsed().as_secs_f64());

        if hashed.digest != digest || !output.stdout.starts_with(digest.to_string().as_bytes()) {
            return Err("the digests differ".into());
        }
        println!(
            "round {round}: hash_artifact {:.3} s, sha256_file {:.3} s, sha256sum {:.3} s",
            whole[round - 1],
            single[round - 1],
            theirs[round - 1]
        );
    }
    let gibibytes = size as f64 / f64::from(1 << 30);
    let (whole, single, theirs) = (median(whole), median(single), median(theirs));
    for (name, seconds) in [("hash_artifact", whole), ("sha256_file", single), ("sha256sum", theirs)] {
        println!(
            "median {name:<14} {seconds:7.3} s {:6.2} GiB/s {:5.2} x sha256sum's time",
            gibibytes / seconds,
            seconds / theirs
        );
    }
    Ok(())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
