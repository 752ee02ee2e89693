//! Commands of the NVM command set, as `struct nvme_uring_cmd` of `linux/nvme_ioctl.h` has them.

/// Bytes of the command part of a 128-byte submission queue entry.
pub(super) const COMMAND_SIZE: usize = 80;

/// PRINFO, bits 29:26 of command dword 12.
const PRACT: u32 = 1 << 29;
const PRCHK_GUARD: u32 = 1 << 28;
const PRCHK_APPLICATION: u32 = 1 << 27;
const PRCHK_REFERENCE: u32 = 1 << 26;
/// Deallocate, of Write Zeroes.
const DEALLOCATE: u32 = 1 << 25;
/// Attribute Deallocate, bit 2 of command dword 11 of Dataset Management.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;

/// Opcodes.
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE_ZEROES: u8 = 0x08;
const DATASET_MANAGEMENT: u8 = 0x09;

/// A command. Integers have the byte order of this machine: the driver converts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NvmeCommand {
    opcode: u8,
    nsid: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    /// Bytes or, of a vectored command, vectors.
    data_len: u32,
    /// Command dwords 10 to 15.
    dwords: [u32; 6],
}

/// Which tags a controller is to check, and what they should be. The application tag is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TagFields {
    pub(super) guard: bool,
    pub(super) application: bool,
    pub(super) reference: bool,
    /// ILBRT or EILBRT, of 32 bits or, with the 64b guard, 48.
    pub(super) initial_reference: u64,
}

impl TagFields {
    /// Nothing.
    pub(super) const NONE: Self =
        Self { guard: false, application: false, reference: false, initial_reference: 0 };
}

impl NvmeCommand {
    /// Makes what was written durable.
    pub(super) fn flush(nsid: u32) -> Self {
        Self { opcode: FLUSH, nsid, ..Self::default() }
    }

    /// Reads `blocks` blocks, at least one, from `lba` on.
    pub(super) fn read(nsid: u32, lba: u64, blocks: u32, tags: TagFields) -> Self {
        Self::over_blocks(READ, nsid, lba, blocks).with_checks(tags)
    }

    /// Writes `blocks` blocks, at least one, from `lba` on.
    pub(super) fn write(nsid: u32, lba: u64, blocks: u32, tags: TagFields) -> Self {
        Self::over_blocks(WRITE, nsid, lba, blocks).with_checks(tags)
    }

    /// Makes `blocks` blocks from `lba` on zeros. The controller generates their tuples from
    /// `reference` on; without one, their metadata becomes zeros too.
    pub(super) fn write_zeroes(
        nsid: u32,
        lba: u64,
        blocks: u32,
        deallocate: bool,
        reference: Option<u64>,
    ) -> Self {
        let mut command = Self::over_blocks(WRITE_ZEROES, nsid, lba, blocks);
        if deallocate {
            command.dwords[2] |= DEALLOCATE;
        }
        if let Some(reference) = reference {
            command.dwords[2] |= PRACT;
            command.set_initial_reference(reference);
        }
        command
    }

    /// Deallocates the one range that its data is, as [`dataset_range`] has it.
    pub(super) fn deallocate(nsid: u32) -> Self {
        let mut command = Self { opcode: DATASET_MANAGEMENT, nsid, ..Self::default() };
        command.dwords[1] = ATTRIBUTE_DEALLOCATE;
        command
    }

    /// The same, with data of `len` bytes, or vectors, at `address`.
    pub(super) fn with_data(self, address: *const u8, len: usize) -> Self {
        Self { address: address as u64, data_len: length(len), ..self }
    }

    /// The same, with separate metadata of `len` bytes at `address`.
    pub(super) fn with_metadata(self, address: *const u8, len: usize) -> Self {
        Self { metadata: address as u64, metadata_len: length(len), ..self }
    }

    /// A command on `blocks` blocks from `lba` on.
    fn over_blocks(opcode: u8, nsid: u32, lba: u64, blocks: u32) -> Self {
        let [low, high] = halves(lba);
        Self { opcode, nsid, dwords: [low, high, blocks - 1, 0, 0, 0], ..Self::default() }
    }

    fn with_checks(mut self, tags: TagFields) -> Self {
        let TagFields { guard, application, reference, initial_reference } = tags;
        for (set, bit) in
            [(guard, PRCHK_GUARD), (application, PRCHK_APPLICATION), (reference, PRCHK_REFERENCE)]
        {
            if set {
                self.dwords[2] |= bit;
            }
        }
        if application {
            // mask and expected tag
            self.dwords[5] = 0xffff_0000;
        }
        self.set_initial_reference(initial_reference);
        self
    }

    /// The low 32 bits are in command dword 14, the high 16 of the 64b guard's tag in command dword
    /// 3.
    fn set_initial_reference(&mut self, reference: u64) {
        [self.dwords[4], self.cdw3] = halves(reference);
    }

    /// As the kernel reads it.
    pub(super) fn to_bytes(self) -> [u8; COMMAND_SIZE] {
        let Self { opcode, nsid, cdw3, metadata, address, metadata_len, data_len, dwords } = self;
        let mut bytes = [0; COMMAND_SIZE];
        bytes[0] = opcode;
        bytes[4..8].copy_from_slice(&nsid.to_ne_bytes());
        bytes[12..16].copy_from_slice(&cdw3.to_ne_bytes());
        bytes[16..24].copy_from_slice(&metadata.to_ne_bytes());
        bytes[24..32].copy_from_slice(&address.to_ne_bytes());
        bytes[32..36].copy_from_slice(&metadata_len.to_ne_bytes());
        bytes[36..40].copy_from_slice(&data_len.to_ne_bytes());
        for (field, dword) in bytes[40..64].chunks_exact_mut(4).zip(dwords) {
            field.copy_from_slice(&dword.to_ne_bytes());
        }
        bytes
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a transfer is at most a folio")
}

/// Bytes of a range of Dataset Management.
pub(super) const DATASET_RANGE_SIZE: usize = 16;

/// One range of Dataset Management: context attributes, length and first block, all little-endian.
pub(super) fn dataset_range(lba: u64, blocks: u32) -> [u8; DATASET_RANGE_SIZE] {
    let mut range = [0; DATASET_RANGE_SIZE];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..16].copy_from_slice(&lba.to_le_bytes());
    range
}

/// Low and high 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what halves are")]
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_laid_out_as_the_driver_has_it() {
        let tags = TagFields {
            guard: true,
            application: true,
            reference: true,
            initial_reference: 0x1234_5678_9abc,
        };
        let at = std::ptr::without_provenance;
        let command = NvmeCommand::read(7, 0x1_0000_0002, 16, tags);
        let command = command.with_data(at(0x1000), 65536).with_metadata(at(0x2000), 256);
        let bytes = command.to_bytes();
        let field = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!((bytes[0], field(4)), (2, 7));
        assert_eq!((field(8), field(12)), (0, 0x1234), "command dwords 2 and 3");
        assert_eq!((field(16), field(24)), (0x2000, 0x1000));
        assert_eq!((field(32), field(36)), (256, 65536));
        assert_eq!((field(40), field(44)), (2, 1));
        assert_eq!(field(48), 0x1c00_000f, "PRCHK of all three tags, 16 blocks");
        assert_eq!((field(56), field(60)), (0x5678_9abc, 0xffff_0000));
        assert!(bytes[64..].iter().all(|&byte| byte == 0), "no time limit of our own");
    }

    #[test]
    fn zeros_are_given_tags_by_the_controller() {
        let command = NvmeCommand::write_zeroes(1, 9, 8, true, Some(9));
        assert_eq!((command.dwords[2], command.dwords[4]), (0x2200_0007, 9));
        assert_eq!(NvmeCommand::write_zeroes(1, 9, 8, false, Some(9)).dwords[2], 0x2000_0007);
        assert_eq!(NvmeCommand::write_zeroes(1, 9, 8, false, None).dwords[2], 0x0000_0007);
    }

    #[test]
    fn a_range_is_little_endian() {
        assert_eq!(dataset_range(0x0102, 3), [0, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    }
}
