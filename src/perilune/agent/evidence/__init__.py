"""What an answer rests on: sources by content hash, quotations of them, arguments built of them."""
