"""One verb a file, a plain function each: typed values in, a typed result out."""
