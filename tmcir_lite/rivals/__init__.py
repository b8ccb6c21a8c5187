"""What TMCIR is compared with: sums, CLIP4Cir, Pic2Word, fusions before CLIP, and a cross-attention of ATF's size."""
