//! Writes the seeds into `corpus/`:
//!
//!     cargo run -p doorbell-fuzz

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (body, name, bytes) in doorbell_fuzz::seeds::all() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(body);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{name}")), bytes)?;
    }
    Ok(())
}
