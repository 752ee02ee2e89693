//! Fields of Identify data structures: NVM Express Base and NVM Command Set specifications,
//! "Identify command".

/// Bytes of every Identify data structure.
pub(super) const IDENTIFY_SIZE: usize = 4096;

/// Identify Namespace, CNS 00h.
#[derive(Debug)]
pub(super) struct IdentifyNamespace(pub(super) Box<[u8; IDENTIFY_SIZE]>);

/// Identify Controller, CNS 01h.
#[derive(Debug)]
pub(super) struct IdentifyController(pub(super) Box<[u8; IDENTIFY_SIZE]>);

/// Identify Namespace of the NVM command set, CNS 05h.
#[derive(Debug)]
pub(super) struct IdentifyNvmNamespace(pub(super) Box<[u8; IDENTIFY_SIZE]>);

impl IdentifyNamespace {
    /// NSZE: blocks.
    pub(super) fn size(&self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().expect("4096 bytes"))
    }

    /// FLBAS: which LBA format is in use, and whether its metadata is interleaved.
    pub(super) fn format_index(&self) -> usize {
        let formatted = self.0[26];
        usize::from(formatted & 0xf | (formatted >> 1) & 0x30)
    }

    pub(super) fn is_extended(&self) -> bool {
        self.0[26] & 0x10 != 0
    }

    /// LBADS of the format in use: the block size's logarithm.
    pub(super) fn block_exponent(&self) -> u8 {
        self.format()[2]
    }

    /// MS of the format in use: bytes of metadata for each block.
    pub(super) fn metadata_size(&self) -> u16 {
        let [low, high, ..] = self.format();
        u16::from_le_bytes([low, high])
    }

    /// DPS: the type of protection information in use; 0 for none.
    pub(super) fn pi_type(&self) -> u8 {
        self.0[29] & 0x7
    }

    /// DPS: whether the tuple comes first in the metadata.
    pub(super) fn is_tuple_first(&self) -> bool {
        self.0[29] & 0x8 != 0
    }

    fn format(&self) -> [u8; 4] {
        let at = 128 + 4 * self.format_index();
        *self.0[at..].first_chunk().expect("64 formats end before the structure does")
    }
}

impl IdentifyController {
    /// MDTS: the largest transfer, as a power of two of the smallest page, 4096 bytes or more.
    /// `None`: any.
    pub(super) fn transfer_max(&self) -> Option<usize> {
        match self.0[77] {
            0 => None,
            exponent => 4096_usize.checked_shl(exponent.into()),
        }
    }

    /// ONCS: Dataset Management.
    pub(super) fn has_dataset_management(&self) -> bool {
        self.0[520] & 0x4 != 0
    }

    /// ONCS: Write Zeroes.
    pub(super) fn has_write_zeroes(&self) -> bool {
        self.0[520] & 0x8 != 0
    }
}

impl IdentifyNvmNamespace {
    /// ELBAF: protection information format, 0 for the 16b, 1 for the 32b, 2 for the 64b guard.
    pub(super) fn guard_format(&self, format_index: usize) -> u8 {
        u8::try_from(self.extended_format(format_index) >> 7 & 0x3).expect("two bits")
    }

    /// ELBAF: bits of the storage tag.
    pub(super) fn storage_tag_size(&self, format_index: usize) -> u8 {
        u8::try_from(self.extended_format(format_index) & 0x7f).expect("seven bits")
    }

    fn extended_format(&self, format_index: usize) -> u32 {
        u32::from_le_bytes(*self.0[12 + 4 * format_index..].first_chunk().expect("64 formats fit"))
    }
}
