//! Memory that two processes of one host have in common.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    ptr, slice,
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Keeps the memory at its size: a page that is gone would end the process that touches it.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Slots of `slot_floats` each, mapped here and in one other process.
///
/// Who may touch a slot is agreed over the connection beside it (see `lane`): one end at a time.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
    slot_floats: usize,
}

impl Memory {
    /// Makes memory of its own, zero, that lives as long as a process maps it; it has no name in any file system.
    /// The descriptor is what the other process opens.
    pub(super) fn create(slots: usize, slot_floats: usize) -> io::Result<(Memory, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("stillhouse-ring", flags)?);
        file.set_len((slots * slot_floats * size_of::<f32>()) as u64)?;
        fcntl_add_seals(&file, SEALS)?;
        let memory = Memory::map(&file, slot_floats)?;
        Ok((memory, file.into()))
    }

    /// Opens what another process made; it must have exactly the size that both agreed on, and keep it.
    pub(super) fn open(process: u32, descriptor: u32, slots: usize, slot_floats: usize) -> io::Result<Memory> {
        let file = open_of(process, descriptor, true)?;
        // Only memory like ours has seals at all.
        let is_sealed = fcntl_get_seals(&file)?.contains(SEALS);
        if !is_sealed || file.metadata()?.len() != (slots * slot_floats * size_of::<f32>()) as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no memory of a ring"));
        }
        Memory::map(&file, slot_floats)
    }

    fn map(file: &File, slot_floats: usize) -> io::Result<Memory> {
        let map = MmapOptions::new().populate().map_raw(file)?;
        Ok(Memory { map, slot_floats })
    }

    /// Fills the beginning of a slot.
    pub(super) fn write(&mut self, slot: usize, floats: &[f32]) {
        let place = self.slot(slot, floats.len());
        // SAFETY: `slot` has checked that the place lies in the map, which is of this object and outlives the call.
        // The slot is this end's, so that nobody reads or writes it meanwhile.
        unsafe { ptr::copy_nonoverlapping(floats.as_ptr(), place, floats.len()) };
    }

    /// The first `floats` of a slot, which must be this end's while they are looked at.
    pub(super) fn read(&self, slot: usize, floats: usize) -> &[f32] {
        let place = self.slot(slot, floats);
        // SAFETY: `slot` has checked that the place lies in the map, which this borrow keeps alive, and maps are
        // aligned to pages. Any bits are floats. The slot is this end's: the other, which has proved that it is a
        // rank of this job, writes it again only when told so.
        unsafe { slice::from_raw_parts(place, floats) }
    }

    /// Where a slot begins, if it holds that many floats.
    fn slot(&self, slot: usize, floats: usize) -> *mut f32 {
        let start = slot * self.slot_floats;
        assert!(
            floats <= self.slot_floats && (start + floats) * size_of::<f32>() <= self.map.len(),
            "slot {slot} with {floats} floats is outside the memory"
        );
        // SAFETY: the assertion keeps the offset inside one allocation.
        unsafe { self.map.as_mut_ptr().cast::<f32>().add(start) }
    }
}

/// Opens what another process has open, whatever it turns out to be, without blocking.
pub(super) fn open_of(process: u32, descriptor: u32, reads: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(reads).write(true);
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    options.open(format!("/proc/{process}/fd/{descriptor}"))
}
