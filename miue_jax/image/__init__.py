"""Operations on batches of images, on the device."""
